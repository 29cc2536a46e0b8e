defmodule OOM.PlanTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Plan, Workers}

  test "has its ranks in order, each with somebody" do
    assert Plan.first_rank() == nil
    for rank <- [1000, 0, 500, 0], do: worker(rank, 5)
    worker(:protected, 5)
    assert Plan.first_rank() == 0
    assert Plan.next_rank(0) == 500
    assert Plan.next_rank(250) == 500
    assert Plan.next_rank(500) == 1000
    assert Plan.next_rank(1000) == nil
  end

  test "largest/2 of a rank is in order of size, and of nobody else" do
    [a, b, c] = for bytes <- [10, 1, 9], do: worker(250, bytes)
    worker(500, 99)
    worker(0, 99)
    worker(:protected, 99)
    assert [{-10, a}, {-9, c}, {-1, b}] == Plan.largest(250, 10)
    assert [{-10, a}, {-9, c}] == Plan.largest(250, 2)
    assert [] == Plan.largest(251, 10)
    assert [] == Plan.largest(250, 0)
    assert [{-99, _}] = Plan.largest(0, 10)
  end

  test "smallest/2 has the workers without known memory" do
    worker(250, 1)
    nothing = for _ <- 1..3, do: worker(250, 0)
    worker(500, 0)
    assert Enum.sort(nothing) == Enum.sort(Plan.smallest(250, 10))
    assert [_, _] = Plan.smallest(250, 2)
    assert [] == Plan.smallest(251, 10)
    assert [] == Plan.smallest(250, 0)
  end

  test "finds its way through many" do
    figures = for n <- 1..2_000, do: {rem(n * 7, 5) * 250, rem(n * 13, 101)}
    for {rank, bytes} <- figures, do: row(rank, bytes)
    assert Plan.size() == 2_000
    largest = for {minus, _} <- Plan.largest(0, 2_000), do: minus
    assert largest == Enum.sort(for {0, bytes} <- figures, do: -bytes)
  end

  test "sweep/0 drops keys that a concurrent change has left behind" do
    pid = worker(250, 10)
    :ets.insert(Plan, {{250, -99, pid}})
    :ets.insert(Plan, {{0, -10, pid}})
    :ets.insert(Plan, {{250, -1, spawn(fn -> :ok end)}})
    Plan.sweep()
    assert [{{250, -10, ^pid}}] = :ets.tab2list(Plan)
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

    test "of a worker whose row is gone leaves none" do
      Plan.move(self(), {250, 0}, {250, 5}, fn -> false end)
      assert :ets.tab2list(Plan) == []
    end
  end

  defp worker(rank, bytes), do: row(rank, bytes, idle())

  # The plan does not ask whether a process lives; a number stands for a process where many are needed.
  defp row(rank, bytes, pid \\ System.unique_integer()) do
    :ok = Workers.attach(pid, rank, nil, nil, [])
    :ok = Workers.sampled(pid, bytes, 0, :fresh)
    pid
  end
end
