defmodule OOM.Experiment do
  @moduledoc false
  # Finds the workers whose growth no figure shows (timers, contexts of zlib, rows of private tables), by an
  # experiment: pure. All workers stand, and one after another runs alone for a moment (OOM.Throttle.Scan). The
  # growth of memory in a worker's runs, beside the growth that the worker's figure shows, is the worker's hidden
  # growth; the growth while nobody runs is the control.
  #
  # A single run shows nothing: the kernel charges memory in batches, and the next run of a worker may give the
  # memory back. So the runs of a worker add up, without the largest, until the sum is well above the control.
  # Many workers run in groups first. Only the members of a group with growth run alone.

  alias OOM.Limits.Scan

  # `runs`: what is known of each worker that has run alone. `clean`: the workers without growth, and until when
  # they are left out. `suspects`: the workers of groups with growth. `ran`: the number of the run in which each
  # worker ran last. `control`: the growth while nobody ran, as a rate.
  defstruct runs: %{}, clean: %{}, suspects: %{}, ran: %{}, count: 0, control: {0, 0}

  @type t :: %__MODULE__{}

  @typedoc """
  The runs of a worker: their number, their time, their growth in all and the largest, and the worker's own
  figure before the first run and after the last.
  """
  @type runs :: %{
          count: pos_integer(),
          grew: non_neg_integer(),
          ms: non_neg_integer(),
          bytes: integer(),
          largest: integer(),
          from_bytes: non_neg_integer(),
          to_bytes: non_neg_integer()
        }

  @doc """
  Splits the workers that want to run into groups, in the order of their runs. The suspects run alone, and so
  do all workers where there are few.
  """
  @spec groups(t(), [pid()], integer()) :: [[pid()]]
  def groups(experiment, pids, now_ms) do
    pids =
      pids
      |> Enum.reject(&clean?(experiment, &1, now_ms))
      |> Enum.sort_by(&Map.get(experiment.ran, &1, 0))

    {alone, others} = Enum.split_with(pids, &alone?(&1, experiment))
    size = max(div(length(others) - 1, Scan.runs()) + 1, 1)
    Enum.map(alone, &[&1]) ++ Enum.chunk_every(others, size)
  end

  @doc "Returns the workers that are left out of the experiment for a while, because they do not grow."
  @spec clean(t(), [pid()], integer()) :: [pid()]
  def clean(experiment, pids, now_ms), do: Enum.filter(pids, &clean?(experiment, &1, now_ms))

  defp clean?(%{clean: clean}, pid, now_ms), do: Map.get(clean, pid, now_ms) > now_ms

  defp alone?(pid, %{suspects: suspects, runs: runs}),
    do: is_map_key(suspects, pid) or is_map_key(runs, pid)

  @doc "Records the growth of memory while nobody ran."
  @spec control(t(), integer(), pos_integer()) :: t()
  def control(%{control: {bytes, ms}} = experiment, grown_bytes, run_ms),
    do: %{experiment | control: {max(bytes + grown_bytes, 0), ms + run_ms}}

  @doc """
  Records the growth of memory while these workers ran, in bytes, the length of the run, and the workers' own
  figures at the last look.
  """
  @spec ran(t(), [pid()], integer(), pos_integer(), %{pid() => non_neg_integer()}, integer()) ::
          t()
  def ran(experiment, [], _grown_bytes, _run_ms, _figures, _now_ms), do: experiment

  def ran(experiment, pids, grown_bytes, run_ms, figures, now_ms) do
    count = experiment.count + 1
    experiment = %{experiment | ran: add(experiment.ran, pids, count), count: count}
    grows? = grown_bytes >= max(Scan.least_bytes(), beside(experiment, run_ms))

    case pids do
      [pid] -> alone(experiment, pid, {grown_bytes, run_ms}, Map.get(figures, pid, 0), now_ms)
      _ when grows? -> %{experiment | suspects: add(experiment.suspects, pids, true)}
      _ -> left_out(experiment, pids, now_ms + Scan.group_clean_ms())
    end
  end

  # What counts as growth at the least, beside the control of so long a time.
  defp beside(%{control: {_bytes, 0}}, _ms), do: 0
  defp beside(%{control: {bytes, ms}}, run_ms), do: div(Scan.control_share() * bytes * run_ms, ms)

  defp alone(experiment, pid, {grown, ms}, figure, now_ms) do
    fresh = %{
      count: 0,
      grew: 0,
      ms: 0,
      bytes: 0,
      largest: 0,
      from_bytes: figure,
      to_bytes: figure
    }

    runs = Map.get(experiment.runs, pid, fresh)

    runs = %{
      runs
      | count: runs.count + 1,
        grew: runs.grew + if(grown > 0, do: 1, else: 0),
        ms: runs.ms + ms,
        bytes: runs.bytes + grown,
        largest: max(runs.largest, grown),
        to_bytes: figure
    }

    if runs.count >= Scan.judged_runs() and hidden_bytes(runs) < runs.count * Scan.noise_bytes(),
      do: experiment |> forget([pid]) |> left_out([pid], now_ms + Scan.clean_ms()),
      else: %{experiment | runs: Map.put(experiment.runs, pid, runs)}
  end

  # The growth beside the worker's own figure, without the largest run.
  defp hidden_bytes(%{bytes: bytes, largest: largest, from_bytes: from, to_bytes: to}),
    do: bytes - largest - max(to - from, 0)

  defp add(map, pids, value), do: Enum.reduce(pids, map, &Map.put(&2, &1, value))

  defp left_out(experiment, pids, until_ms),
    do: %{experiment | clean: add(experiment.clean, pids, until_ms)}

  @doc "Records that these workers did not want to run: they did not take the memory of their group."
  @spec idle(t(), [pid()]) :: t()
  def idle(experiment, pids),
    do: %{experiment | suspects: Map.drop(experiment.suspects, pids)}

  @doc "Returns the workers shown to grow, with the growth of their runs in bytes."
  @spec shown(t()) :: %{pid() => pos_integer()}
  def shown(%{runs: all} = experiment) do
    for {pid, runs} <- all,
        runs.count >= Scan.proof_runs(),
        hidden_bytes(runs) >= Scan.proof_bytes(),
        grows?(runs, experiment),
        into: %{},
        do: {pid, runs.bytes}
  end

  @doc "Returns the workers whose runs alone have taken memory so far."
  @spec suspects(t()) :: %{pid() => true}
  def suspects(%{runs: all} = experiment),
    do: for({pid, runs} <- all, grows?(runs, experiment), into: %{}, do: {pid, true})

  @doc "Tells whether no worker has taken memory in its runs alone so far."
  @spec quiet?(t()) :: boolean()
  def quiet?(experiment), do: suspects(experiment) == %{}

  defp grows?(runs, experiment) do
    runs.bytes >= max(2 * runs.count * Scan.noise_bytes(), beside(experiment, runs.ms)) and
      runs.grew * 3 >= runs.count
  end

  @doc "Forgets workers, because they have ended or were told to leave."
  @spec forget(t(), [pid()]) :: t()
  def forget(experiment, pids) do
    %{
      experiment
      | runs: Map.drop(experiment.runs, pids),
        suspects: Map.drop(experiment.suspects, pids),
        clean: Map.drop(experiment.clean, pids),
        ran: Map.drop(experiment.ran, pids)
    }
  end
end
