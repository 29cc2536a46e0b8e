defmodule OOM.Throttle.Run do
  @moduledoc false
  # The second half of a turn: workers run whose last runs fit into the room above the floor.

  alias OOM.{Limits, Lineup, Reporter, Slices, Standing, Steps, Stretches}
  alias OOM.Limits.Turn
  alias OOM.Throttle.{Look, Narrow, Sample, Scan, Stand, State, Wait}

  # In one of so many turns the workers are also looked at while they may run.
  @look_turns 8

  @doc "Lets some workers run; `:ok` where the guard has ended."
  @spec run(State.t()) :: {:ok, State.t()} | :ok
  # Memory grows on, so all workers stand in the next turn, which begins now.
  def run(%{alert?: true} = state), do: {:ok, %{state | alert?: false, ran: nil, calm: 0}}

  # Nobody is known to grow.
  def run(%{line: %{hidden_turns: turns}} = state) when turns > 0, do: Scan.run(state)

  def run(state) do
    before = Sample.take(state.watcher)
    distance = Sample.distance(before)
    room = {distance, before.floor_bytes || 0}
    state = keep(state, room)
    busy = busy(state)
    {late, run, run_ms, stand, line} = choose(state, room, busy)
    state = Narrow.run(state, late, before)

    # A look at workers that may run shows which workers want to run.
    _ = if rem(state.turn, @look_turns) == 0, do: Look.start(run)

    calm? =
      stand == [] and busy == [] and not state.loose? and calm?(line, before, distance) and
        Slices.calm?(run, line.costs, distance, Limits.throttle_ms())

    state = State.resume(%{state | line: line}, run)
    since = Stretches.only(state.since, state.still)
    state = State.due(%{state | since: since, loose: [], watch_ms: :infinity})

    began_ms = now()
    budget = max(Slices.budget(distance, elem(room, 1)), Turn.alert_bytes())

    with {:ok, state} <- run_on(state, run, {before, budget}, began_ms + run_ms) do
      calm = if calm? and not over?(state, before, budget), do: state.calm + 1, else: 0
      ran_turn = Enum.reduce(run, state.ran_turn, &Map.put(&2, &1, state.turn))
      run_ms = min(run_ms, max(now() - began_ms, Turn.shortest_ms()))
      {:ok, %{state | ran: {before, run, run_ms}, ran_turn: ran_turn, calm: calm}}
    end
  end

  defp keep(%{line: before} = state, room) do
    line = Lineup.keep(before, room)
    _ = if before.kept == %{} and line.kept != %{}, do: Reporter.kept(Map.keys(line.kept))
    %{state | line: line}
  end

  # A worker in a collection runs to the end of the collection, and no worker begins another large step
  # meanwhile.
  defp busy(%{line: %{kept: kept}} = state),
    do: for(pid <- State.busy(state), not is_map_key(kept, pid), do: pid)

  defp choose(%{line: %{kept: kept}} = state, room, busy) do
    last_ms = if state.ran, do: elem(state.ran, 2), else: 1

    pids =
      for pid <- Enum.sort_by(Map.keys(state.still) -- busy, &place(&1, state)),
          not is_map_key(kept, pid),
          do: {pid, Steps.bytes_of(pid)}

    busy_bytes = busy |> Enum.map(&Steps.bytes_of/1) |> Enum.sum()
    {rested, pids} = Lineup.rested(state.line, pids)
    {late, pids} = late(state, pids)
    {pids, line} = Lineup.refuse(state.line, pids, room, busy_bytes, now())
    busy_or_nil = if busy == [], do: nil, else: busy_bytes
    pids = Lineup.at_work(line, pids)
    {run, run_ms, stand} = Slices.choose(pids, line.costs, room, last_ms, busy_or_nil)
    # The workers that were let go in the stand go on for as long as the others run.
    late = late ++ state.loose
    # The runs of late workers fit into no budget.
    run_ms = if late == [], do: run_ms, else: min(run_ms, last_ms)
    {late, rested ++ late ++ run, run_ms, stand, line}
  end

  # The worker that has stood longest comes first. Newcomers come after the others, the oldest first: eighty requests
  # that were let run in turns held parts of eighty bodies at once, and none was through.
  defp place(pid, %{line: %{newcomers: newcomers}} = state) do
    case newcomers do
      %{^pid => appeared_ms} -> {1, appeared_ms}
      _ -> {0, Map.get(state.ran_turn, pid, -1)}
    end
  end

  # A worker that would have stood too long after the next stand runs now, whatever the run costs.
  defp late(state, pids) do
    late = State.late(state, now() + 1 + state.stood_ms)
    {late, pids} = Enum.split_with(pids, fn {pid, _} -> MapSet.member?(late, pid) end)
    {for({pid, _} <- late, do: pid), pids}
  end

  defp calm?(line, before, distance) do
    line.kept == %{} and line.refused == %{} and Standing.quiet?(line.standing) and
      before.drift_bytes_per_s * Limits.throttle_ms() <= distance * 1_000
  end

  # Where no worker runs the stand goes on. A run ends early where memory has grown by the budget: workers began to
  # grow in the middle of a run of 100 ms, and the node was dead before the run had ended.
  defp run_on(state, [], {before, _budget}, until_ms), do: Stand.go_on(state, before, until_ms)

  defp run_on(state, run, {before, budget} = bounds, until_ms) do
    with {:ok, state} <- Wait.until(state, min(now() + Turn.watch_ms(), until_ms), nil) do
      if now() >= until_ms or over?(state, before, budget),
        do: {:ok, state},
        else: run_on(state, run, bounds, until_ms)
    end
  end

  defp over?(state, before, budget),
    do: Sample.moved(before, Sample.take(state.watcher)) > budget

  defp now, do: System.monotonic_time(:millisecond)
end
