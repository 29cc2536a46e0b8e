defmodule OOM.HoldTest do
  use ExUnit.Case, async: true

  alias OOM.Hold

  @backoff [initial_ms: 100, max_ms: 1_000]

  describe "killed/4" do
    test "is due after the backoff, with its size" do
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

  describe "max_kills" do
    test "gives up at that many kills, and not before" do
      assert [:held, :held, :given_up, :given_up] =
               Enum.scan(1..4, %{hold(:a) | max_kills: 3}, fn _, hold -> killed(hold, 7, 0) end)
               |> Enum.map(& &1.state)
    end

    test "a failed start is no kill" do
      hold = %{hold(:a) | max_kills: 2} |> killed(7, 0)
      failed = Enum.reduce(1..5, hold, fn _, hold -> Hold.failed(hold, 0, &one/0) end)
      assert %{state: :held, kills: 1, failures: 5, due_ms: 1_000} = failed
      assert %{state: :given_up, due_ms: nil} = killed(failed, 7, 0)
    end

    test "pardoned/1 begins anew" do
      given_up = %{hold(:a) | max_kills: 1} |> killed(7, 0)
      assert %{kills: 0, failures: 0, told?: false} = Hold.pardoned(%{given_up | told?: true})
    end
  end

  test "is held since the first kill after it ran" do
    again = hold(:a) |> killed(7, 10) |> killed(7, 20)
    assert again.held_ms == 10
    assert %{held_ms: 40} = again |> Hold.released(30) |> killed(7, 40)
  end

  test "failed/3 waits as long as a further kill, and needs as much as before" do
    failed = hold(:a) |> killed(7, 0) |> Map.put(:state, :releasing) |> Hold.failed(1_000, &one/0)
    assert %{state: :held, kills: 1, failures: 1, bytes: 7, due_ms: 1_200} = failed
  end

  describe "not_started/4" do
    test "waits as failed/3 does, and counts how often in a row" do
      hold = killed(hold(:a), 7, 0)
      failed = Hold.not_started(hold, :why, 1_000, &one/0)
      assert %{failures: 1, failed_starts: 1, due_ms: 1_200, state: :held} = failed
      refute Hold.fails?(failed)
      again = Enum.reduce(1..2, failed, fn _, hold -> Hold.not_started(hold, :why, 0, &one/0) end)
      assert %{failed_starts: 3} = again
      assert Hold.fails?(again)
      # A started child begins anew, whatever the wait in between was for.
      assert %{failed_starts: 0, failures: 3} = Hold.released(again, 5_000)
      assert %{failed_starts: 0, no_room?: false} = Hold.pardoned(%{again | no_room?: true})
    end

    test "tells one reason from another" do
      said = fn reason -> Hold.not_started(hold(:a), reason, 0, &one/0).said end
      assert said.(:a) == said.(:a)
      assert said.(:a) != said.(:b)
    end
  end

  test "turned_away/3 waits like a failed start, is no kill, and is held since" do
    away = Hold.turned_away(hold(:a), 1_000, &one/0)
    assert %{state: :held, kills: 0, failures: 1, held_ms: 1_000, due_ms: 1_100} = away
    assert %{held_ms: 1_000, failures: 2} = Hold.turned_away(away, 2_000, &one/0)
    assert %{held_ms: 4_000} = away |> Hold.released(3_000) |> Hold.turned_away(4_000, &one/0)
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

    # The child came back between the look and the change.
    test "is the same where it runs again" do
      running = hold(:a) |> killed(7, 0) |> Hold.released(1_000)
      assert Hold.without(running, [:a]) == running
    end
  end

  test "absorb/2 takes the largest number of kills" do
    assert %{kills: 3} = Hold.absorb(hold(:a), [%{hold(:b) | kills: 3}, %{hold(:c) | kills: 1}])
    assert %{kills: 0} = Hold.absorb(hold(:a), [])
  end

  defp hold(id), do: %Hold{supervisor: self(), id: id, ids: [id], backoff: @backoff}
  defp killed(hold, bytes, now_ms), do: Hold.killed(hold, bytes, now_ms, &one/0)
  defp one, do: 1.0
end
