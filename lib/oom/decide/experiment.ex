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
  #
  # The sum of the runs is more than a worker's growth where memory comes back between the runs. A worker that built
  # and dropped 1 MB took 30 MB in its runs, and was killed. A node with such workers returns to the same peak, and a
  # leak passes the peak. So the growth is a share of the node's loss: the headroom lost beyond the least headroom of
  # the seconds before the first run. Below the floor the node has no room for another peak, and the loss counts from
  # the first run.

  alias OOM.Limits.Scan

  # `runs`: what is known of each worker that has run alone. `clean`: the workers without growth, and until when
  # they are left out. `suspects`: the workers of groups with growth. `ran`: the number of the run in which each
  # worker ran last. `control`: the growth while nobody ran, as a rate.
  defstruct runs: %{}, clean: %{}, suspects: %{}, ran: %{}, count: 0, control: {0, 0}

  @type t :: %__MODULE__{}

  @typedoc """
  The runs of a worker: their number, their time, their growth in all and the largest, the worker's own figure before
  the first run and after the last, and the room before the first run.
  """
  @type runs :: %{
          count: pos_integer(),
          grew: non_neg_integer(),
          ms: non_neg_integer(),
          bytes: integer(),
          largest: integer(),
          from_bytes: non_neg_integer(),
          to_bytes: non_neg_integer(),
          room: room()
        }

  @typedoc "Headroom above the floor, in bytes: now, and the least of the last seconds."
  @type room :: {now_bytes :: integer(), least_bytes :: integer()}

  @typedoc "A run: its growth in bytes, its length, and the room before."
  @type run :: %{bytes: integer(), ms: pos_integer(), room: room()}

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

  @doc "Records a run of these workers, with the workers' own figures at the last look."
  @spec ran(t(), [pid()], run(), %{pid() => non_neg_integer()}, integer()) :: t()
  def ran(experiment, [], _run, _figures, _now_ms), do: experiment

  def ran(experiment, pids, run, figures, now_ms) do
    count = experiment.count + 1
    experiment = %{experiment | ran: add(experiment.ran, pids, count), count: count}
    grows? = run.bytes >= max(Scan.least_bytes(), beside(experiment, run.ms))

    case pids do
      [pid] -> alone(experiment, pid, run, Map.get(figures, pid, 0), now_ms)
      _ when grows? -> %{experiment | suspects: add(experiment.suspects, pids, true)}
      _ -> left_out(experiment, pids, now_ms + Scan.group_clean_ms())
    end
  end

  # What counts as growth at the least, beside the control of so long a time.
  defp beside(%{control: {_bytes, 0}}, _ms), do: 0
  defp beside(%{control: {bytes, ms}}, run_ms), do: div(Scan.control_share() * bytes * run_ms, ms)

  defp alone(experiment, pid, run, figure, now_ms) do
    fresh = %{
      count: 0,
      grew: 0,
      ms: 0,
      bytes: 0,
      largest: 0,
      from_bytes: figure,
      to_bytes: figure,
      room: run.room
    }

    runs = Map.get(experiment.runs, pid, fresh)

    runs = %{
      runs
      | count: runs.count + 1,
        grew: runs.grew + if(run.bytes > 0, do: 1, else: 0),
        ms: runs.ms + run.ms,
        bytes: runs.bytes + run.bytes,
        largest: max(runs.largest, run.bytes),
        to_bytes: figure
    }

    # Only a worker without growth is left out, whatever its figure shows: a worker that moves binaries to a table
    # shows the binaries until the next collection, and grows on while it is left out.
    if runs.count >= Scan.judged_runs() and
         runs.bytes - runs.largest < runs.count * Scan.noise_bytes(),
       do: experiment |> drop([pid]) |> left_out([pid], now_ms + Scan.clean_ms()),
       else: %{experiment | runs: Map.put(experiment.runs, pid, runs)}
  end

  defp add(map, pids, value), do: Enum.reduce(pids, map, &Map.put(&2, &1, value))

  defp left_out(experiment, pids, until_ms),
    do: %{experiment | clean: add(experiment.clean, pids, until_ms)}

  @doc "Records that these workers did not want to run: they did not take the memory of their group."
  @spec idle(t(), [pid()]) :: t()
  def idle(experiment, pids),
    do: %{experiment | suspects: Map.drop(experiment.suspects, pids)}

  @doc """
  Returns the workers shown to grow, with their growth in bytes, at this headroom above the floor: without the
  largest run, and beside the growth of a worker's own figure.
  """
  @spec shown(t(), integer()) :: %{pid() => pos_integer()}
  def shown(%{runs: all} = experiment, room_bytes) do
    taken_bytes = all |> Map.values() |> Enum.map(&max(&1.bytes, 0)) |> Enum.sum()

    for {pid, runs} <- all,
        runs.count >= Scan.proof_runs(),
        grows?(runs, experiment),
        lost = share_bytes(runs, taken_bytes, room_bytes),
        lost - runs.largest - max(runs.to_bytes - runs.from_bytes, 0) >= Scan.proof_bytes(),
        into: %{},
        do: {pid, lost}
  end

  # The share of a worker in the loss of the node: the part of the worker's runs in all runs alone. A grower's runs
  # have taken memory, so the sum is not 0.
  defp share_bytes(%{bytes: bytes, room: {before, least}}, taken_bytes, room_bytes) do
    lost = if(room_bytes > 0, do: least, else: before) - room_bytes
    min(bytes, div(lost * bytes, taken_bytes))
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

  @doc """
  Forgets ended workers, at this headroom above the floor. The memory of an ended worker comes back, and hides the
  growth of the other workers. So the other workers count as grown by all that their runs have taken.
  """
  @spec forget(t(), [pid()], integer()) :: t()
  def forget(experiment, [], _room_bytes), do: experiment

  def forget(experiment, pids, room_bytes) do
    others =
      for {pid, %{room: {before, least}} = runs} <- Map.drop(experiment.runs, pids), into: %{} do
        now = room_bytes + runs.bytes
        {pid, %{runs | room: {max(before, now), max(least, now)}}}
      end

    %{drop(experiment, pids) | runs: others}
  end

  defp drop(experiment, pids) do
    %{
      experiment
      | runs: Map.drop(experiment.runs, pids),
        suspects: Map.drop(experiment.suspects, pids),
        clean: Map.drop(experiment.clean, pids),
        ran: Map.drop(experiment.ran, pids)
    }
  end
end
