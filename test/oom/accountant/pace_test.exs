defmodule OOM.Accountant.PaceTest do
  use ExUnit.Case, async: true

  alias OOM.Accountant.Pace
  alias OOM.Stillness

  @levels [:normal, :elevated, :high, :critical]

  test "figures of a long pass hold longer, within bounds" do
    assert [0, 400, 1_000_000] |> Enum.map(&Pace.valid_ms/1) == [60_000, 200_000, 300_000]
  end

  test "the pause after a pass follows its length, and is the shorter the higher the level is" do
    for took_ms <- [0, 10_000] do
      pauses = Enum.map(@levels, &Pace.pause_ms(&1, took_ms))
      assert pauses == Enum.sort(pauses, :desc)
    end

    # In calm times the share of CPU is bounded.
    assert Pace.pause_ms(:normal, 10_000) == 500_000
    assert Pace.pause_ms(:normal, 1) == 5_000
    assert Pace.pause_ms(:critical, 1) == 10
  end

  test "looks at memory that stands still become rarer while the level is high" do
    snapshot = %{limit_bytes: 1_000, working_set_bytes: 500}

    pauses = fn level ->
      %{Stillness.new(1) | at_bytes: 500}
      |> Stream.iterate(&Pace.rest(&1, snapshot, level))
      |> Stream.map(& &1.pause_ms)
      |> Enum.slice(1..6)
    end

    assert pauses.(:high) == [100, 200, 400, 800, 1_000, 1_000]
    assert pauses.(:normal) |> Enum.uniq() == [5_000]
  end
end
