defmodule OOM.Experiment do
  @moduledoc false
  # Finds the workers whose growth no figure shows (timers, contexts of zlib, rows of private tables), by an
  # experiment: pure. All workers stand, and one after another runs for a millisecond alone (OOM.Throttle.Scan).
  # The growth of memory in a worker's runs is the worker's growth; the growth while nobody runs is the control.
  #
  # A single run shows nothing: a worker that makes garbage takes memory in one run and gives the memory back in
  # another, and the kernel charges memory in batches. So a worker is shown to grow by the mean of its last
  # runs, well above the control. Many workers run in groups first, and only the members of a group that has
  # grown run alone.

  alias OOM.Limits

  # `runs`: the growth in the last runs of each worker alone, the last first, and in all of them, each beside the
  # control of that time. `clean`: the
  # workers of groups without growth, and until when they are left out. `suspects`: the workers of groups with
  # growth. `ran`: the number of the run in which each worker ran last.
  defstruct runs: %{}, clean: %{}, suspects: %{}, ran: %{}, count: 0

  @type t :: %__MODULE__{}
  @typedoc "The growth in the last runs, the last first, and the sum of all runs, in bytes."
  @type runs ::
          {last :: [{grown_bytes :: integer(), control_bytes :: integer()}],
           sum_bytes :: integer()}

  @doc """
  Splits the workers that want to run into groups, in the order of their runs. The suspects run alone, and so
  do all workers where there are few.
  """
  @spec groups(t(), [pid()], integer()) :: [[pid()]]
  def groups(experiment, pids, now_ms) do
    pids =
      pids
      |> Enum.reject(&(Map.get(experiment.clean, &1, now_ms) > now_ms))
      |> Enum.sort_by(&Map.get(experiment.ran, &1, 0))

    {alone, others} = Enum.split_with(pids, &alone?(&1, experiment))
    size = max(div(length(others) - 1, Limits.Scan.runs()) + 1, 1)
    Enum.map(alone, &[&1]) ++ Enum.chunk_every(others, size)
  end

  @doc "Returns the workers that are left out of the experiment for a while, because they do not grow."
  @spec clean(t(), [pid()], integer()) :: [pid()]
  def clean(experiment, pids, now_ms),
    do: Enum.filter(pids, &(Map.get(experiment.clean, &1, now_ms) > now_ms))

  defp alone?(pid, %{suspects: suspects, runs: runs}),
    do: is_map_key(suspects, pid) or is_map_key(runs, pid)

  @doc """
  Records the growth of memory while a group ran, in bytes, beside the growth while nobody ran for as long.
  """
  @spec ran(t(), [pid()], integer(), non_neg_integer(), integer()) :: t()
  def ran(experiment, pids, grown_bytes, control_bytes, now_ms) do
    count = experiment.count + 1
    ran = Enum.reduce(pids, experiment.ran, &Map.put(&2, &1, count))
    experiment = %{experiment | ran: ran, count: count}

    grows? =
      grown_bytes >= Limits.Scan.least_bytes() and
        grown_bytes >= Limits.Scan.control_share() * control_bytes

    case pids do
      [pid] -> alone(experiment, pid, {grown_bytes, control_bytes}, now_ms)
      _ when grows? -> %{experiment | suspects: add(experiment.suspects, pids, true)}
      _ -> %{experiment | clean: left_out(experiment.clean, pids, now_ms)}
    end
  end

  defp add(map, pids, value), do: Enum.reduce(pids, map, &Map.put(&2, &1, value))

  @doc "Records that the workers of a group did not want to run."
  @spec idle(t(), [pid()], integer()) :: t()
  def idle(experiment, pids, now_ms) do
    clean = add(experiment.clean, pids, now_ms + Limits.Scan.idle_ms())
    %{experiment | clean: clean, suspects: Map.drop(experiment.suspects, pids)}
  end

  defp alone(experiment, pid, {grown, _control} = run, now_ms) do
    {last, sum} = Map.get(experiment.runs, pid, {[], 0})
    last = Enum.take([run | last], Limits.Scan.window())

    if length(last) >= Limits.Scan.proof_runs() and mean(last, 0) < Limits.Scan.noise_bytes() do
      %{
        experiment
        | runs: Map.delete(experiment.runs, pid),
          suspects: Map.delete(experiment.suspects, pid),
          clean: left_out(experiment.clean, [pid], now_ms)
      }
    else
      %{experiment | runs: Map.put(experiment.runs, pid, {last, max(sum + grown, 0)})}
    end
  end

  defp left_out(clean, pids, now_ms), do: add(clean, pids, now_ms + Limits.Scan.clean_ms())

  # The mean of the runs (0) or of their controls (1).
  defp mean(runs, place),
    do: div(runs |> Enum.map(&elem(&1, place)) |> Enum.sum(), length(runs))

  @doc "Returns the workers shown to grow, with the growth in bytes."
  @spec shown(t()) :: %{pid() => pos_integer()}
  def shown(%{runs: runs}) do
    for {pid, {last, sum}} <- runs,
        length(last) >= Limits.Scan.proof_runs(),
        sum >= Limits.Scan.proof_bytes(),
        grows?(last),
        into: %{},
        do: {pid, sum}
  end

  @doc "Returns the workers whose runs alone have taken memory so far."
  @spec suspects(t()) :: %{pid() => true}
  def suspects(%{runs: runs}),
    do: for({pid, {last, _}} <- runs, grows?(last), into: %{}, do: {pid, true})

  # In more than half of the runs, and in the mean.
  defp grows?(last) do
    grown = mean(last, 0)

    grown >= 2 * Limits.Scan.noise_bytes() and
      grown >= Limits.Scan.control_share() * mean(last, 1) and
      2 * Enum.count(last, fn {bytes, _} -> bytes > 0 end) > length(last)
  end

  @doc "Forgets workers, because they have ended or were told to leave."
  @spec forget(t(), [pid()]) :: t()
  def forget(experiment, pids),
    do: %{
      experiment
      | runs: Map.drop(experiment.runs, pids),
        suspects: Map.drop(experiment.suspects, pids),
        clean: Map.drop(experiment.clean, pids),
        ran: Map.drop(experiment.ran, pids)
    }
end
