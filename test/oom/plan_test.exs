defmodule OOM.PlanTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Plan, Workers}

  describe "pick/1" do
    test "takes the lowest rank that there is, the largest first" do
      worker(500, 10)
      b = worker(250, 1)
      c = worker(250, 9)
      assert pids(pick(1_000)) == [c, b]
    end

    test "takes none of the next rank, however much is needed" do
      ranks = for rank <- [1000, 0, 500, 250], do: {rank, worker(rank, 5)}

      order =
        for {rank, pid} <- Enum.sort(ranks) do
          assert pids(pick(1_000)) == [pid]
          Workers.delete(pid)
          rank
        end

      assert order == [0, 250, 500, 1000]
      assert pick(1_000) == []
    end

    test "never takes a protected worker" do
      worker(:protected, 1_000)
      assert pick(1_000) == []
    end

    test "stops when the need is met" do
      a = worker(250, 50)
      b = worker(250, 30)
      worker(250, 20)
      assert pids(pick(1)) == [a]
      assert pids(pick(50)) == [a]
      assert pids(pick(51)) == [a, b]
      assert pick(0) == []
      assert pick(-1) == []
    end

    test "stops at the largest number" do
      for bytes <- 1..10, do: worker(250, bytes)
      assert [10, 9, 8] = for(victim <- pick(1_000, count: 3), do: victim.bytes)
    end

    test "takes none above the ceiling" do
      pid = worker(500, 10)
      assert pick(1_000, ceiling: 499) == []
      assert pids(pick(1_000, ceiling: 500)) == [pid]
    end

    test "takes none that is too small" do
      large = worker(250, 100)
      for bytes <- 1..9, do: worker(250, bytes)
      worker(500, 10)
      assert pids(pick(1_000, min_bytes: 10)) == [large]
    end

    test "goes on to the next rank where all are too small" do
      for bytes <- 1..9, do: worker(250, bytes)
      next = worker(500, 10)
      assert pids(pick(1_000, min_bytes: 10)) == [next]
      assert pick(1_000, min_bytes: 10, ceiling: 250) == []
    end

    test "tells what is known of each" do
      pid = idle()
      :ok = Workers.attach(pid, 250, self(), :id, [])
      :ok = Workers.sampled(pid, 7, 0, :stale)

      assert [%{pid: pid, rank: 250, bytes: 7, state: :stale, supervisor: self(), id: :id}] ==
               pick(1)
    end

    test "of nobody is nobody" do
      assert pick(1_000) == []
    end

    test "finds its way through many" do
      figures = for n <- 1..2_000, do: {rem(n * 7, 5) * 250, rem(n * 13, 101)}
      for {rank, bytes} <- figures, do: row(rank, bytes)
      picked = for victim <- pick(1_000_000, count: 2_000), do: -victim.bytes
      assert picked == Enum.sort(for {0, bytes} <- figures, do: -bytes)
    end
  end

  describe "keys that a concurrent change has left behind" do
    test "are no verdict" do
      pid = worker(250, 10)
      :ets.insert(Plan, {{250, -99, pid}})
      :ets.insert(Plan, {{0, -10, pid}})
      assert [%{pid: ^pid, rank: 250, bytes: 10}] = pick(1_000)
    end

    test "are swept" do
      pid = worker(250, 10)
      :ets.insert(Plan, {{250, -99, pid}})
      :ets.insert(Plan, {{0, -10, pid}})
      Plan.sweep()
      assert [{{250, -10, ^pid}}] = :ets.tab2list(Plan)
    end

    test "of one that has ended are dropped on the way" do
      :ets.insert(Plan, {{250, -99, spawn(fn -> :ok end)}})
      assert pick(1_000) == []
      assert :ets.tab2list(Plan) == []
    end

    test "do not put a small worker before a large one" do
      small = worker(250, 10)
      large = worker(250, 50)
      :ets.insert(Plan, {{250, -99, small}})
      assert pids(pick(1_000)) == [large, small]
    end

    test "do not betray a worker that holds next to nothing" do
      pid = worker(250, 10)
      :ets.insert(Plan, {{250, -99, pid}})
      assert pick(1_000, min_bytes: 11) == []
    end

    test "do not betray a worker that is protected now" do
      pid = worker(:protected, 10)
      :ets.insert(Plan, {{250, -10, pid}})
      assert pick(1_000) == []
    end
  end

  describe "a figure that is old" do
    setup do: %{small: worker(250, 5), normal: worker(500, 50)}

    test "does not vouch for a small worker: it is taken before one that is worth more",
         workers do
      assert pids(pick(1_000, min_bytes: 11, now_ms: 1_000)) == [workers.small]
    end

    test "is told of, taken or waited for" do
      old = [min_bytes: 11, now_ms: 1_000]
      assert {[_], true} = choose(1_000, old)
      assert {[], true} = choose(1_000, [unknown: :wait] ++ old)
      # Large enough without it; known; not asked for.
      worker(250, 2_000)
      assert {[_], false} = choose(1_000, old)
      assert {[_], false} = choose(1_000, min_bytes: 11)
      assert {[], false} = choose(0, old)
    end

    test "or waited for, and nobody beyond it is picked", workers do
      assert pick(1_000, min_bytes: 11, now_ms: 1_000, unknown: :wait) == []
      assert pids(pick(1_000, min_bytes: 11, unknown: :wait)) == [workers.normal]
    end
  end

  describe "one that reads small and works hard" do
    setup do
      busy = idle()
      :ok = Workers.declare(busy, 250)
      :ok = Workers.sampled(busy, 5, 0, :busy)
      %{busy: busy, normal: worker(500, 50)}
    end

    test "is spared like any small one while there is time", workers do
      assert pids(pick(1_000, min_bytes: 11)) == [workers.normal]
    end

    test "is taken near the end, before one that is worth more", workers do
      assert pids(pick(1_000, min_bytes: 11, busy: :take)) == [workers.busy]
    end
  end

  describe "worth?/2" do
    test "counts what all of them hold, of whatever rank" do
      worker(250, 20)
      worker(500, 20)
      worker(:protected, 1_000)
      assert Plan.worth?(40, limits([]))
      refute Plan.worth?(41, limits([]))
    end

    test "does not count the small" do
      for _ <- 1..100, do: worker(250, 9)
      worker(500, 20)
      refute Plan.worth?(21, limits(min_bytes: 10))
      assert Plan.worth?(20, limits(min_bytes: 10))
    end

    test "counts one whose figure is old with all growth since" do
      worker(250, 5)
      old = [min_bytes: 10, now_ms: 1_000, growth_bytes_per_ms: 3]
      assert Plan.worth?(3_005, limits(old))
      refute Plan.worth?(3_006, limits(old))
      refute Plan.worth?(3_005, limits([now_ms: 99] ++ Keyword.delete(old, :now_ms)))
    end

    test "counts that growth once, however many have old figures, and for each that works hard" do
      for at_ms <- [0, 400, 800], do: worker(250, 5, at_ms)
      old = limits(min_bytes: 10, now_ms: 1_000, growth_bytes_per_ms: 3, busy: :take)
      assert Plan.worth?(3_015, old)
      refute Plan.worth?(3_016, old)
      for _ <- 1..2, do: worker(250, 5, 900, :busy)
      assert Plan.worth?(3_015 + 2 * 305, old)
      refute Plan.worth?(3_016 + 2 * 305, old)
    end

    test "assumes so where one has never been looked at" do
      :ok = Workers.declare(idle(), 250)
      assert Plan.worth?(1_000, limits(need_bytes: 1_000, min_bytes: 10))
    end

    test "counts nothing of those whose figures are waited for: they are not killed now" do
      worker(250, 5)
      worker(250, 20)
      :ok = Workers.declare(idle(), 250)
      wait = [min_bytes: 10, now_ms: 1_000, growth_bytes_per_ms: 3, unknown: :wait]
      assert Plan.worth?(20, limits(wait))
      refute Plan.worth?(21, limits(wait))
    end

    test "assumes so of more than it would take long to count" do
      for _ <- 1..3_000, do: row(250, 10)
      assert Plan.worth?(1_000_000, limits([]))
    end

    test "is false where there is nobody" do
      refute Plan.worth?(1, limits([]))
    end
  end

  describe "move/4" do
    test "keeps the worker in the plan all the while, and leaves one key" do
      pid = worker(250, 5)

      Plan.move(pid, {250, 5}, {500, 6}, fn ->
        assert :ets.member(Plan, {250, -5, pid})
        assert :ets.member(Plan, {500, -6, pid})
      end)

      assert [{{500, -6, ^pid}}] = :ets.tab2list(Plan)
      Plan.move(pid, {500, 6}, {500, 6}, fn -> true end)
      assert [{{500, -6, ^pid}}] = :ets.tab2list(Plan)
    end

    test "to protected leaves none" do
      pid = worker(250, 5)
      Plan.move(pid, {250, 5}, {:protected, 5}, fn -> true end)
      assert :ets.tab2list(Plan) == []
    end

    test "of one whose row is gone leaves none" do
      Plan.move(self(), {250, 0}, {250, 5}, fn -> false end)
      assert :ets.tab2list(Plan) == []
    end
  end

  defp pick(need, limits \\ []), do: elem(choose(need, limits), 0)
  defp choose(need, limits), do: Plan.pick(limits(Keyword.put(limits, :need_bytes, need)))

  defp limits(limits) do
    Map.merge(
      %{
        need_bytes: 1_000,
        count: 64,
        min_bytes: 0,
        fresh_ms: 100,
        unknown: :take,
        busy: :spare,
        ceiling: 1000,
        now_ms: 0,
        growth_bytes_per_ms: 0
      },
      Map.new(limits)
    )
  end

  defp pids(victims), do: Enum.map(victims, & &1.pid)

  defp worker(rank, bytes, at_ms \\ 0, state \\ :fresh),
    do: row(rank, bytes, idle(), at_ms, state)

  # The plan does not ask whether a process lives; a number stands for one where many are needed.
  defp row(rank, bytes, pid \\ System.unique_integer(), at_ms \\ 0, state \\ :fresh) do
    :ok = Workers.attach(pid, rank, nil, nil, [])
    :ok = Workers.sampled(pid, bytes, at_ms, state)
    pid
  end
end
