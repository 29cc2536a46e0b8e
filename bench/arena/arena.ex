defmodule Arena do
  @moduledoc false
  # Does a node with OOM survive growth at full speed? Started by script/arena.

  alias Arena.{Arguments, Job, Readme, Record, Report, Run, Shape, Table}

  @usage """
  usage: script/arena [OPTIONS]

    --shapes a,b   which ways to grow, or all (default: all)
    --workers N,M  how many workers grow (default: 1,4,20,200)
    --runs N       runs of each shape with each number of workers (default: 1)
    --each N       at least N runs of each shape, divided among the numbers of workers
    --seconds S    how long each lasts (default: 6)
    --rate R       MB/s of all workers together, or unlimited (default: unlimited)
    --limit M      MiB of the cgroup (default: 512)
    --canary P     its priority with the VM's schedulers: normal or high (default: normal)
    --keep-logs    keep the logs of runs that survived, too
    --trace        a snapshot each 10 ms in the logs
    --write        put a row for each shape into README.md
    --continue F   make only the runs that are missing in F, which one of this kind has written
    --quick        some of it, in less than a minute

  All shapes, 100 runs each, take 80 minutes:

    script/arena --each 100 --seconds 2 --write

  shapes:
  """

  @switches [
    shapes: :string,
    workers: :string,
    runs: :integer,
    each: :integer,
    write: :boolean,
    continue: :string,
    seconds: :integer,
    rate: :string,
    limit: :integer,
    canary: :string,
    keep_logs: :boolean,
    trace: :boolean,
    quick: :boolean,
    help: :boolean
  ]

  # Shape and workers: what users meet, and one that OOM cannot help.
  @quick [list: 20, binaries: 4, mailbox: 4, ets: 20, mixture: 20, protected: 4]
  @quick_seconds 3
  # There one process grows, however many stand by.
  @single [:protected, :unsupervised]

  @spec main([String.t()]) :: no_return()
  def main(arguments) do
    with {options, [], []} <- OptionParser.parse(arguments, strict: @switches),
         false <- options[:help] == true,
         {:ok, rounds} <- rounds(options),
         {:ok, made} <- made(options[:continue]) do
      System.halt(if run(missing(rounds, made), made, options), do: 0, else: 1)
    else
      true -> stop(0, usage())
      {:error, what} -> stop(2, what <> "\n\n" <> usage())
      _ -> stop(2, usage())
    end
  end

  defp run(rounds, made, options) do
    path = "tmp/arena-#{System.os_time(:second)}.tsv"

    # What was measured stands if the rest is not waited for.
    runs =
      Enum.reduce(rounds, made, fn round, before ->
        runs = before ++ Enum.map(round, &one(&1, options))
        Record.write(runs, path)
        if options[:write], do: Readme.put("README.md", "arena", Table.markdown(runs))
        runs
      end)

    Report.table(runs)
    IO.puts("each run: #{path}")
    Report.deaths(runs)
  end

  defp one({job, n}, options) do
    run = Run.run(job, Run.vm(), "tmp/arena/#{job.shape}-#{job.workers}-#{n}.log")
    Report.line(run)
    if Run.survived?(run) and not Keyword.get(options, :keep_logs, false), do: File.rm(run.log)
    run
  end

  defp made(nil), do: {:ok, []}
  defp made(path), do: Record.read(path)

  # Of each job, the first rounds are those that were made.
  defp missing(rounds, made) do
    counts = Enum.frequencies_by(made, & &1.job)

    Enum.map(rounds, fn round ->
      Enum.reject(round, fn {job, n} -> n <= (counts[job] || 0) end)
    end)
  end

  defp rounds(options) do
    with {:ok, shapes} <- Arguments.shapes(options[:shapes] || "all"),
         {:ok, workers} <- Arguments.counts("--workers", options[:workers] || "1,4,20,200"),
         {:ok, rate} <- Arguments.rate(options[:rate] || "unlimited"),
         {:ok, canary} <- Arguments.priority("--canary", options[:canary] || "normal") do
      job = %Job{
        shape: nil,
        workers: nil,
        seconds: options[:seconds] || if(options[:quick], do: @quick_seconds, else: 6),
        limit_bytes: (options[:limit] || 512) * 1_048_576,
        bytes_per_s: rate,
        canary: canary,
        trace?: options[:trace] || false
      }

      cases = if options[:quick], do: @quick, else: cases(shapes, workers)

      counts = for {shape, workers} <- cases, do: {shape, workers, count(shape, cases, options)}
      most = counts |> Enum.map(&elem(&1, 2)) |> Enum.max()

      # A round after the other, so that what disturbs a while of it does not fall upon one shape.
      {:ok,
       for n <- 1..most do
         for {shape, workers, count} <- counts, n <= count do
           {%{job | shape: shape, workers: workers}, n}
         end
       end}
    end
  end

  defp count(shape, cases, options) do
    case options[:each] do
      nil -> max(options[:runs] || 1, 1)
      each -> ceil(max(each, 1) / Enum.count(cases, &match?({^shape, _}, &1)))
    end
  end

  defp cases(shapes, workers) do
    for shape <- shapes,
        workers <- if(shape in @single, do: [Enum.max(workers)], else: workers),
        do: {shape, workers}
  end

  defp usage, do: @usage <> "  " <> Enum.map_join(Shape.names(), ", ", &to_string/1) <> "\n"

  @spec stop(0..2, String.t()) :: no_return()
  defp stop(status, words) do
    IO.puts(words)
    System.halt(status)
  end
end
