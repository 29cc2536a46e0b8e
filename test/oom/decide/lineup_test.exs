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

  test "workers that have come since the last stand explain growth, and are not charged to others" do
    line =
      %Lineup{}
      |> Lineup.read([seen(:ran, {0, 0}, false)])
      |> Map.put(:newcomers, %{came: true})
      |> Lineup.read([
        seen(:old, {0, 9 * @mib}, true),
        seen(:ran, {4_000, 0}, false),
        seen(:came, {4_000, 5 * @mib}, false)
      ])

    assert Lineup.besides_bytes(line, [:ran], 6 * @mib) == @mib
    assert Lineup.charge(line, [:ran], [], {6 * @mib, 1}).costs.ran == {@mib, 1}
    # At the first stand all workers are new to the lineup.
    first = Lineup.read(%Lineup{}, [seen(:first, {0, 5 * @mib}, false)])
    assert Lineup.besides_bytes(first, [], 6 * @mib) == 6 * @mib
  end

  test "a newcomer with work in hand stands for longer, and is as dear as the dearest" do
    line = lineup([{:new, {{0, 0}, {5, 2 * @mib}}, true}, {:old, {{0, 0}, {5, 2 * @mib}}, true}])
    line = %{line | newcomers: %{new: true}}
    assert Lineup.shown(line) == %{new: true}
    assert Lineup.rested(line, new: 0, old: 0) == {[:old], [new: 0]}
    assert Lineup.at_work(line, new: 0, old: 0) == [new: 16 * @mib, old: 0]
    # One that only waits costs nothing.
    idle = lineup([{:new, {{0, 0}, {5, 1_000}}, true}])
    assert Lineup.rested(%{idle | newcomers: %{new: true}}, new: 0) == {[:new], []}
  end
end
