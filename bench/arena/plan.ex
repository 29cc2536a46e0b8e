defmodule Arena.Plan do
  @moduledoc false
  # Planned runs: from the command line to rounds of jobs.

  alias Arena.{Arguments, Job}

  @type cell :: {Job.t(), pos_integer()}

  # Shape and workers: common cases, and a case OOM cannot help.
  @quick [list: 20, binaries: 4, mailbox: 4, ets: 20, mixture: 20, protected: 4]
  @quick_seconds 6
  @seconds 20
  # One process grows there, however many stand by.
  @single [:protected, :unsupervised]

  @doc "Returns the rounds in turn, so a disturbance of some minutes does not hit a single shape."
  @spec rounds(keyword()) :: Arguments.result([[cell()]])
  def rounds(options) do
    with {:ok, shapes} <- Arguments.shapes(options[:shapes] || "all"),
         {:ok, workers} <- Arguments.counts("--workers", options[:workers] || "1,4,20,200"),
         {:ok, held} <- Arguments.percents("--held", options[:held] || "0"),
         {:ok, job} <- job(options) do
      cases = if options[:quick], do: @quick, else: cases(shapes, workers)

      counts =
        for percent <- held, {shape, workers} <- cases do
          job = %{job | shape: shape, workers: workers, held_percent: percent}
          {job, count(shape, cases, options)}
        end

      most = counts |> Enum.map(&elem(&1, 1)) |> Enum.max()
      {:ok, for(n <- 1..most, do: for({job, count} <- counts, n <= count, do: {job, n}))}
    end
  end

  @doc "Returns the cells still to be made: of each job, the first runs were made."
  @spec missing([[cell()]], [Arena.Run.t()]) :: [[cell()]]
  def missing(rounds, made) do
    counts = Enum.frequencies_by(made, & &1.job)

    Enum.map(rounds, fn round ->
      Enum.reject(round, fn {job, n} -> n <= Map.get(counts, plain(job), 0) end)
    end)
  end

  @doc "Returns the recorded runs belonging to these rounds."
  @spec wanted([Arena.Run.t()], [[cell()]]) :: [Arena.Run.t()]
  def wanted(runs, rounds) do
    jobs = for round <- rounds, {job, _} <- round, into: MapSet.new(), do: plain(job)
    Enum.filter(runs, &(&1.job in jobs))
  end

  # Logging does not make a run a different run.
  defp plain(job), do: %{job | trace?: false}

  defp job(options) do
    with {:ok, rate} <- Arguments.rate(options[:rate] || "unlimited"),
         {:ok, canary} <- Arguments.priority("--canary", options[:canary] || "normal"),
         {:ok, burners} <- Arguments.at_least("--burn", options[:burn], 0),
         {:ok, quota} <- Arguments.at_least("--quota", options[:quota], 1),
         {:ok, config} <- Arguments.config("--config", options[:config] || "") do
      job = %Job{
        shape: nil,
        workers: nil,
        seconds: options[:seconds] || if(options[:quick], do: @quick_seconds, else: @seconds),
        limit_bytes: (options[:limit] || 512) * 1_048_576,
        bytes_per_s: rate,
        canary: canary,
        burners: burners || 0,
        quota_percent: quota,
        config: config,
        trace?: options[:trace] || false
      }

      {:ok, if(options[:return], do: Job.returning(job), else: job)}
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
end
