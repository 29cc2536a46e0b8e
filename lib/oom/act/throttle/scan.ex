defmodule OOM.Throttle.Scan do
  @moduledoc false
  # The second half of a turn where memory grows in no worker's figure: the workers run one after another, each
  # alone, while all others stand (OOM.Experiment). The growth of a run is measured when the workers of the run
  # stand again.

  alias OOM.{Charges, Experiment, Limits, Lineup, Slices, Steps, Stretches}
  alias OOM.Throttle.{Sample, State, Wait}

  @doc "Runs the workers in turn; `:ok` where the guard has ended."
  @spec run(State.t()) :: {:ok, State.t()} | :ok
  def run(state) do
    before = Sample.fresh(state.watcher)
    pids = Map.keys(state.still) -- State.busy(state)
    {waiting, pids} = Enum.split_with(pids, &Lineup.waits?(state.line, &1))
    {free, waiting} = Enum.split(waiting, max(length(waiting) - Limits.Scan.most_waiting(), 0))
    {pids, state} = refuse(state, pids, before)
    state = State.resume(state, free ++ Experiment.clean(state.experiment, pids, now()))
    state = State.due(%{state | since: Stretches.only(state.since, state.still)})

    with {:ok, state} <- control(state) do
      # Workers that waited for a message run together, because most of them have nothing to do. Workers that
      # would have stood too long at the end of the scan run together, too.
      late = late(state, pids -- Map.keys(Experiment.suspects(state.experiment)))
      groups = [waiting, late | Experiment.groups(state.experiment, pids -- late, now())]
      budget = Slices.budget(Sample.distance(before), before.floor_bytes || 0)
      until_ms = now() + Limits.Scan.longest_ms()

      with {:ok, state} <- each(groups, before, budget, until_ms, state) do
        last = Sample.take(state.watcher)
        shown = Experiment.shown(state.experiment, elem(Sample.room(last), 0))
        for {pid, bytes} <- shown, do: Charges.put(pid, bytes, now())
        quiet? = Sample.moved(before, last) < Limits.Scan.least_bytes()
        line = Lineup.scanned(state.line, quiet? and Experiment.quiet?(state.experiment))
        {:ok, %{state | line: line, ran: nil, calm: 0}}
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

  defp late(state, pids) do
    late = State.late(state, now() + Limits.Scan.longest_ms())
    Enum.filter(pids, &MapSet.member?(late, &1))
  end

  # The growth while nobody runs, for as long as a run takes, in one of so many turns.
  @control_turns 4

  defp control(%{turn: turn} = state) when rem(turn, @control_turns) != 0, do: {:ok, state}

  defp control(state) do
    from = Sample.fresh(state.watcher)

    with {:ok, state} <- Wait.until(state, now() + Limits.Scan.run_ms() + 1, nil) do
      to = Sample.fresh(state.watcher)
      control = Experiment.control(state.experiment, Sample.moved(from, to), lasted(from, to))
      {:ok, if(state.loose?, do: state, else: %{state | experiment: control})}
    end
  end

  defp each([], _before, _budget, _until_ms, state), do: {:ok, state}

  defp each([[] | groups], before, budget, until_ms, state),
    do: each(groups, before, budget, until_ms, state)

  defp each([pids | groups], before, budget, until_ms, state) do
    with {:ok, state} <- one(pids, state) do
      taken = Sample.grown(before, Sample.take(state.watcher))

      # A worker that has stood for long enough runs from now on, beside the next run, and spoils the measure.
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
      now = reductions(pids)
      {ran, idle} = Enum.split_with(pids, &(now[&1] - worked[&1] > Limits.rested_reductions()))
      {:ok, State.due(%{state | experiment: learn(state, ran, idle, {from, to})})}
    end
  end

  # A run beside others tells nothing.
  defp learn(state, ran, idle, {from, to}) do
    if state.loose? or State.busy(state) != [] do
      state.experiment
    else
      run = %{bytes: Sample.moved(from, to), ms: lasted(from, to), room: Sample.room(from)}

      state.experiment
      |> Experiment.ran(ran, run, figures(ran, state), now())
      |> Experiment.idle(idle)
    end
  end

  # They have run, so their stretch begins anew.
  defp stand(pids, state), do: State.suspend(%{state | since: Map.drop(state.since, pids)}, pids)

  defp lasted(from, to), do: max(to.at_ms - from.at_ms, 1)
  defp figures(pids, state), do: Map.new(pids, &{&1, Lineup.figure_bytes(state.line, &1)})

  # Reading the reductions of a worker that stands sends no signal.
  defp reductions(pids), do: Map.new(pids, &{&1, reductions_of(&1)})

  defp reductions_of(pid) do
    case :erlang.process_info(pid, :reductions) do
      {_, count} -> count
      :undefined -> 0
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
