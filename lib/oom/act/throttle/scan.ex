defmodule OOM.Throttle.Scan do
  @moduledoc false
  # The second half of a turn where memory grows in no worker's figure: the workers that want to run do so one
  # after another, alone, while all others stand (OOM.Experiment). The growth of each run is measured at its end,
  # when the workers stand again.

  alias OOM.{Charges, Experiment, Limits, Lineup, Slices, Steps, Stretches}
  alias OOM.Throttle.{Sample, State, Suspended, Wait}

  @doc "Runs the workers in turn; `:ok` where the guard has ended."
  @spec run(State.t()) :: {:ok, State.t()} | :ok
  def run(state) do
    before = Sample.fresh(state.watcher)
    pids = Map.keys(state.still) -- State.busy(state)
    {waiting, pids} = Enum.split_with(pids, &Lineup.waits?(state.line, &1))
    {pids, state} = refuse(state, pids, before)
    state = State.resume(state, waiting ++ Experiment.clean(state.experiment, pids, now()))
    state = State.due(%{state | since: Stretches.only(state.since, state.still)})

    with {:ok, state} <- control(state) do
      groups = Experiment.groups(state.experiment, pids, now())
      budget = Slices.budget(Sample.distance(before), before.floor_bytes || 0)
      until_ms = now() + Limits.Scan.longest_ms()

      with {:ok, state} <- each(groups, before, budget, until_ms, state) do
        shown = Experiment.shown(state.experiment)
        for {pid, bytes} <- shown, do: Charges.put(pid, bytes, now())
        {:ok, %{state | ran: nil, calm: 0}}
      end
    end
  end

  # A worker with a large step does not run, as in every turn (OOM.Lineup).
  defp refuse(state, pids, sample) do
    steps = for pid <- pids, do: {pid, Steps.bytes_of(pid)}
    room = {Sample.distance(sample), sample.floor_bytes || 0}
    {may, line} = Lineup.refuse(state.line, steps, room, 0, now())
    {for({pid, _} <- may, do: pid), %{state | line: line}}
  end

  # The growth while nobody runs, for as long as a run takes.
  defp control(state) do
    from = Sample.fresh(state.watcher)

    with {:ok, state} <- Wait.until(state, now() + Limits.Scan.run_ms() + 1, nil) do
      to = Sample.fresh(state.watcher)
      {:ok, %{state | control_bytes: Sample.grown(from, to)}}
    end
  end

  defp each([], _before, _budget, _until_ms, state), do: {:ok, state}

  defp each([pids | groups], before, budget, until_ms, state) do
    with {:ok, state} <- one(pids, state) do
      taken = Sample.grown(before, Sample.take(state.watcher))

      # Workers that have stood for long enough run from now on, and would be measured with the next.
      if taken >= budget or now() >= until_ms or state.loose?,
        do: {:ok, state},
        else: each(groups, before, budget, until_ms, state)
    end
  end

  defp one(pids, state) do
    from = Sample.fresh(state.watcher)
    worked = reductions(pids)
    state = State.resume(state, pids)

    with {:ok, state} <- Wait.until(state, now() + Limits.Scan.run_ms(), nil),
         state = stand(pids, state),
         {:ok, state} <- Wait.until(state, now() + Limits.Scan.settle_ms(), :stood) do
      to = Sample.fresh(state.watcher)
      ran? = reductions(pids) - worked > Limits.rested_reductions()
      {:ok, State.due(%{state | experiment: learn(state, pids, ran?, Sample.moved(from, to))})}
    end
  end

  # A run beside others tells nothing.
  defp learn(state, pids, ran?, grown_bytes) do
    cond do
      state.loose? or State.busy(state) != [] -> state.experiment
      ran? -> Experiment.ran(state.experiment, pids, grown_bytes, state.control_bytes, now())
      true -> Experiment.idle(state.experiment, pids, now())
    end
  end

  defp stand(pids, state) do
    still = Enum.reduce(pids, state.still, &Suspended.suspend/2)
    since = Map.drop(state.since, pids)
    State.due(%{state | still: still, since: Stretches.begun(since, Map.keys(still), now())})
  end

  # Reading the reductions of a worker that stands sends no signal.
  defp reductions(pids) do
    for pid <- pids, {_, count} <- [:erlang.process_info(pid, :reductions)], reduce: 0 do
      sum -> sum + count
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
