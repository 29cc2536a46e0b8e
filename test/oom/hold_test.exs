defmodule OOM.HoldTest do
  use ExUnit.Case, async: true

  alias OOM.Hold

  @backoff [initial_ms: 100, max_ms: 1_000]

  describe "killed/4" do
    test "is due after the backoff, with what it held" do
      assert %{state: :held, kills: 1, bytes: 7, due_ms: 1_100} = killed(hold(:a), 7, 1_000)
    end

    test "is due later each time, up to the cap" do
      holds = Enum.scan(1..6, hold(:a), fn _, hold -> killed(hold, 7, 0) end)
      assert [100, 200, 400, 800, 1_000, 1_000] = Enum.map(holds, & &1.due_ms)
    end

    test "after a return counts on" do
      again = hold(:a) |> killed(7, 0) |> Hold.released(500) |> killed(9, 600)
      assert %{state: :held, kills: 2, bytes: 9, due_ms: 800} = again
    end
  end

  test "failed/3 waits as long as a further kill, and needs what it needed" do
    failed = hold(:a) |> killed(7, 0) |> Map.put(:state, :releasing) |> Hold.failed(1_000, &one/0)
    assert %{state: :held, kills: 2, bytes: 7, due_ms: 1_200} = failed
  end

  describe "stable?/3" do
    test "once it has run for the time" do
      running = hold(:a) |> killed(7, 0) |> Hold.released(1_000)
      refute Hold.stable?(running, 1_499, 500)
      assert Hold.stable?(running, 1_500, 500)
    end

    test "never while it is held" do
      refute Hold.stable?(killed(hold(:a), 7, 0), 1_000_000, 1)
    end
  end

  describe "without/2" do
    test "leaves the others, in their order" do
      assert %{ids: [:a, :c]} = Hold.without(%{hold(:a) | ids: [:a, :b, :c]}, [:b])
      assert %{ids: [:b]} = Hold.without(%{hold(:a) | ids: [:a, :b, :c]}, [:c, :a])
    end

    test "is nil when none is left" do
      assert Hold.without(hold(:a), [:a]) == nil
    end
  end

  test "absorb/2 takes the largest number of kills" do
    assert %{kills: 3} = Hold.absorb(hold(:a), [%{hold(:b) | kills: 3}, %{hold(:c) | kills: 1}])
    assert %{kills: 0} = Hold.absorb(hold(:a), [])
  end

  describe "next/3" do
    test "is the one that is due longest" do
      holds = [at(:a, 30), at(:b, 10), at(:c, 20)]
      assert %{id: :b} = Hold.next(holds, 100, 1_000)
    end

    test "none before it is due" do
      assert Hold.next([at(:a, 101)], 100, 1_000) == nil
      assert %{id: :a} = Hold.next([at(:a, 100)], 100, 1_000)
    end

    test "passes by what does not fit" do
      holds = [%{at(:large, 10) | bytes: 1_001}, %{at(:fits, 20) | bytes: 1_000}]
      assert %{id: :fits} = Hold.next(holds, 100, 1_000)
      assert Hold.next(holds, 100, 999) == nil
    end

    test "what held nothing known fits unless there is less than no room" do
      assert %{id: :a} = Hold.next([at(:a, 10)], 100, 0)
      assert Hold.next([at(:a, 10)], 100, -1) == nil
    end

    test "takes one that fits nowhere all the same, after its longest backoff" do
      assert Hold.next([%{at(:a, 10) | bytes: 1_001}], 1_009, 1_000) == nil
      assert %{id: :a} = Hold.next([%{at(:a, 10) | bytes: 1_001}], 1_010, 1_000)
    end

    test "everything fits where no limit is known" do
      assert %{id: :a} = Hold.next([%{at(:a, 10) | bytes: 1_000_000_000_000}], 100, nil)
    end

    test "passes by what is on its way or runs" do
      holds = [%{at(:a, 10) | state: :releasing}, Hold.released(at(:b, 10), 20)]
      assert Hold.next(holds, 100, 1_000) == nil
    end

    test "none of none" do
      assert Hold.next([], 100, nil) == nil
    end
  end

  defp hold(id), do: %Hold{supervisor: self(), id: id, ids: [id], backoff: @backoff}
  defp at(id, due_ms), do: %{hold(id) | due_ms: due_ms, kills: 1}
  defp killed(hold, bytes, now_ms), do: Hold.killed(hold, bytes, now_ms, &one/0)
  defp one, do: 1.0
end
