defmodule Arena do
  @moduledoc false
  # Does a node with OOM survive growth at full speed? Started by script/arena.

  alias Arena.{Arguments, DecisionCode, Plan, Readme, Record, Report, Run, Shape, Table}

  @usage """
  usage: script/arena [OPTIONS]

    --shapes a,b   which ways to grow, all, reports or slices (default: all)
    --workers N,M  how many workers grow (default: 1,4,20,200)
    --held P,Q     percent of the limit the node uses when they begin, which the 50 innocents hold
                   in equal parts; 0: what the VM takes by itself (default: 0)
    --runs N       runs of each shape with each number of workers (default: 1)
    --each N       at least N runs of each shape, divided among the numbers of workers
    --seconds S    how long a run may take to be decided (default: 20)
    --return       culprits that were ended come back and grow again, for all of these seconds
    --rate R       MB/s of all workers together, or unlimited (default: unlimited)
    --beside N     so many runs side by side; only with --rate, and best with 20 MB/s or less
                   (default: 1)
    --limit M      MiB of the cgroup (default: 512)
    --canary P     its priority with the VM's schedulers: normal or high (default: normal)
    --burn N       foreign processes that burn CPU meanwhile
    --quota P      the VM gets at most P percent of one core
    --config C     options of the library, such as "trim: false, admit: [...]"
    --keep-logs    keep the logs of runs that survived, too
    --trace        a snapshot each 10 ms in the logs
    --write        put the table into docs/evidence.md
    --continue F   make only the runs that are missing in F, and add them to it; auto: in
                   tmp/arena-HASH.tsv, where HASH is of the decision code
    --any-hash     take runs of other decision code in F as well
    --table        make no run: only the tables of what F has
    --quick        some of it, in less than a minute

  A run is over when every culprit has been ended, or stands still by itself; a leak that is only
  throttled is not survived. Each run is kept in tmp/arena-HASH.tsv as soon as it is over. Status 1:
  a run was not survived, or an innocent died or took more than 5 s to answer.

    script/arena --held 85 --each 100 --continue auto

  shapes:
  """

  @switches [
    shapes: :string,
    workers: :string,
    held: :string,
    runs: :integer,
    each: :integer,
    write: :boolean,
    continue: :string,
    any_hash: :boolean,
    table: :boolean,
    seconds: :integer,
    return: :boolean,
    rate: :string,
    beside: :integer,
    limit: :integer,
    canary: :string,
    burn: :integer,
    quota: :integer,
    config: :string,
    keep_logs: :boolean,
    trace: :boolean,
    quick: :boolean,
    help: :boolean
  ]

  @spec main([String.t()]) :: no_return()
  def main(arguments) do
    hash = DecisionCode.hash()

    with {options, [], []} <- OptionParser.parse(arguments, strict: @switches),
         false <- options[:help] == true,
         {:ok, rounds} <- Plan.rounds(options),
         :ok <- quota(options[:quota]),
         {:ok, beside} <- Arguments.beside(options[:beside], options[:rate]),
         path = path(options[:continue], hash),
         {:ok, made} <- made(path, hash, options) do
      options = Keyword.put(options, :beside, beside)
      System.halt(if run(rounds, made, {path, hash}, options), do: 0, else: 1)
    else
      true -> stop(0, usage())
      {:error, what} -> stop(2, what <> "\n\n" <> usage())
      {:refused, what} -> stop(2, what)
      _ -> stop(2, usage())
    end
  end

  defp run(rounds, made, {path, hash} = to, options) do
    made = Plan.wanted(made, rounds)
    left = if options[:table], do: [], else: rounds |> Plan.missing(made) |> Enum.concat()
    IO.puts("decision code #{hash}: #{length(made)} runs are recorded, #{length(left)} to make")

    case made ++ make(left, to, options) do
      [] ->
        stop(2, "#{path} has no such runs")

      runs ->
        Report.table(runs)
        IO.puts("each run: #{path}")
        if options[:write], do: Readme.put("docs/evidence.md", "arena", Table.markdown(runs))
        if options[:table], do: IO.puts(["\n", Table.markdown(runs)])
        Report.failures(runs)
    end
  end

  defp make(left, to, options) do
    left
    |> Task.async_stream(&one/1, max_concurrency: options[:beside], timeout: :infinity)
    |> Enum.map(fn {:ok, run} -> keep(run, to, options) end)
  end

  defp one({job, n}) do
    log = "tmp/arena/#{job.shape}-#{job.workers}-#{job.held_percent}-#{n}.log"
    Run.run(job, Run.vm(), log)
  end

  defp keep(run, {path, hash}, options) do
    run = %{run | hash: hash}
    Record.append(run, path)
    Report.line(run)

    if Run.survived?(run) and Run.clean?(run) and not Keyword.get(options, :keep_logs, false),
      do: File.rm(run.log)

    run
  end

  defp path(option, hash) when option in [nil, "auto"], do: Record.path(hash)
  defp path(path, _hash), do: path

  # Read even without use: old rows and new rows must have the same columns.
  defp made(path, hash, options) do
    with {:ok, runs} <- Record.read(path) do
      strange = runs |> Enum.map(& &1.hash) |> Enum.uniq() |> List.delete(hash)
      runs = Enum.filter(runs, &(&1.otp == System.otp_release() or options[:table]))

      cond do
        options[:continue] == nil and options[:table] != true ->
          {:ok, []}

        strange == [] or options[:any_hash] ->
          {:ok, runs}

        true ->
          {:refused,
           "#{path} has runs of decision code #{Enum.join(strange, ", ")}, and this is #{hash}; " <>
             "--any-hash takes them as well"}
      end
    end
  end

  defp quota(nil), do: :ok

  defp quota(_percent),
    do: with(why when why != nil <- Run.no_quota(), do: {:refused, why}) || :ok

  defp usage do
    names = &Enum.map_join(&1, ", ", fn name -> to_string(name) end)

    @usage <>
      "  #{names.(Shape.names())}\n\nreports:\n  #{names.(Shape.reports())}\n\n" <>
      "slices:\n  #{names.(Shape.slices())}\n"
  end

  @spec stop(0..2, String.t()) :: no_return()
  defp stop(status, words) do
    IO.puts(words)
    System.halt(status)
  end
end
