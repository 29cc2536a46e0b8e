defmodule OOM.LineupTest do
  use ExUnit.Case, async: true

  alias OOM.{Evidence, Lineup}

  @mib 1_048_576

  # The lineup after two stands, at which each worker had these reductions and this figure.
  defp lineup(workers) do
    %Lineup{}
    |> Lineup.read(for {pid, {before, _}, waits?} <- workers, do: seen(pid, before, waits?))
    |> Lineup.read(for {pid, {_, now}, waits?} <- workers, do: seen(pid, now, waits?))
  end

  defp seen(pid, {reductions, bytes}, waits?) do
    found = %{waits?: waits?, evidence: Evidence.born(1)}
    {pid, {pid, 250, bytes, 0, :fresh, nil, nil, [], {reductions, 0, found}}, 0}
  end

  test "a run is charged to the workers that had a turn" do
    line = lineup([{:ran, {{0, 0}, {4_000, 0}}, false}, {:late, {{0, 0}, {5, 0}}, false}])

    %{costs: costs} = Lineup.charge(line, [:ran, :late], [], {6 * @mib, 1})

    assert costs.ran == {6 * @mib, 1}
    # Next to what is assumed of a worker that has not run.
    assert costs.late == {15 * @mib, 1}
    # Where nobody had a turn, the workers may not want one.
    %{costs: costs} = Lineup.charge(line, [:late], [], {6 * @mib, 1})
    assert costs == %{late: {12 * @mib, 1}}
  end

  test "a worker that does not stand yet had a turn" do
    line = lineup([{:busy, {{0, 0}, {5, 0}}, false}])

    %{costs: costs} = Lineup.charge(line, [:busy], [:busy], {6 * @mib, 1})

    assert costs.busy == {6 * @mib, 1}
    assert %{costs: costs} = Lineup.ended(%{line | costs: costs}, :busy)
    assert costs == %{}
  end

  test "a worker that waited for a message costs nothing" do
    line = lineup([{:ran, {{0, 0}, {4_000, 0}}, false}, {:waits, {{0, 0}, {5, 0}}, true}])

    %{costs: costs} = Lineup.charge(line, [:ran, :waits], [], {6 * @mib, 1})

    assert costs.waits == {0, 1}
  end

  test "a worker whose figure has grown had a turn" do
    line = lineup([{:grew, {{0, 0}, {5, 2 * @mib}}, false}])

    %{costs: costs} = Lineup.charge(line, [:grew], [], {6 * @mib, 1})

    assert costs.grew == {6 * @mib, 1}
  end
end
