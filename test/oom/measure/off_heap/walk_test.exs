defmodule OOM.OffHeap.WalkTest do
  use ExUnit.Case, async: true

  alias OOM.OffHeap.Walk

  defp walk(last, queue, bytes, reductions) do
    walk = %Walk{queue: queue, bytes: bytes, reductions: reductions, at_ms: 0, took_ms: 1}
    Walk.after_last(walk, last)
  end

  test "messages that others sent are no work of the process" do
    # As seen: 5 KB in a short queue, 22 KB after four reductions, and then 6,000 of real work.
    second = nil |> walk(5, 5_000, 15_000) |> walk(22, 22_344, 15_004)
    assert_in_delta Walk.estimate_bytes(second, 5_996), 22_344, 1_000
  end

  test "the rate is that of the work since the last walk, with as many messages" do
    for queue <- [0, 1] do
      first = walk(nil, queue, 1_000_000, 200_000)
      assert first.bytes_per_reduction == 5.0
      last = walk(first, queue, 9_000_000, 600_000)
      assert last.bytes_per_reduction == 20.0
      assert Walk.estimate_bytes(last, 100_000) == 11_000_000
    end
  end

  test "other messages leave the rate as it was" do
    first = walk(nil, 0, 1_000_000, 200_000)
    last = walk(first, 3, 3_000_000, 400_000)
    assert Walk.estimate_bytes(last, 100_000) == 3_500_000
  end

  test "little work makes no rate" do
    first = walk(nil, 0, 1_000, 1_000_000)
    # A heap grew by 1 MB between two readings.
    last = walk(first, 0, 1_001_000, 1_000_010)
    assert Walk.estimate_bytes(last, 10_000) <= 1_001_000 + 100_000
    # The same number of reductions, read twice.
    assert walk(last, 0, 1_001_000, 1_000_010).bytes_per_reduction == last.bytes_per_reduction
  end
end
