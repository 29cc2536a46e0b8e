defmodule OOM.OffHeap.WalkTest do
  use ExUnit.Case, async: true

  alias OOM.OffHeap.Walk

  defp walk(last, queue, bytes, reductions),
    do: Walk.new(last, %{queue: queue, bytes: bytes, reductions: reductions}, 0, 1)

  test "messages that others sent are no work of the process" do
    # As seen: 5 KB in a short queue, 22 KB after four reductions, and then 6,000 of real work.
    first = walk(nil, 5, 5_000, 15_000)
    second = walk(first, 22, 22_344, 15_004)
    assert second.bytes_per_reduction == 0.0
    assert Walk.estimate_bytes(second, 22, 21_000) == 22_344
    assert Walk.estimate_bytes(second, 0, 21_000) == 0
  end

  test "messages weigh by their number, and the rest stays" do
    monitors = walk(nil, 0, 1_000_000, 200_000)
    walk = walk(monitors, 10, 1_100_000, 200_000)
    assert walk.own_bytes == 1_000_000
    assert Walk.estimate_bytes(walk, 5, 200_000) == 1_050_000
    assert Walk.estimate_bytes(walk, 0, 200_000) == 1_000_000
  end

  test "the rate is that of all work since the last empty queue" do
    first = walk(nil, 0, 1_000_000, 200_000)
    assert first.bytes_per_reduction == 5.0
    between = walk(first, 3, 1_500_000, 300_000)
    assert between.bytes_per_reduction == 5.0
    last = walk(between, 0, 9_000_000, 600_000)
    assert last.bytes_per_reduction == 20.0
    assert Walk.estimate_bytes(last, 0, 700_000) == 11_000_000
  end

  test "little work makes no rate" do
    first = walk(nil, 0, 1_000, 1_000_000)
    # A heap grew by 1 MB between two readings.
    last = walk(first, 0, 1_001_000, 1_000_010)
    assert Walk.estimate_bytes(last, 0, 1_010_010) <= 1_001_000 + 100_000
    # The same number of reductions, read twice.
    assert walk(last, 0, 1_001_000, 1_000_010).bytes_per_reduction == last.bytes_per_reduction
  end

  test "what has gone lowers the part that is no message" do
    first = walk(nil, 0, 1_000_000, 200_000)
    assert walk(first, 4, 300_000, 200_000).own_bytes == 300_000
    assert walk(first, 0, 300_000, 200_000).own_bytes == 300_000
  end
end
