defmodule OOM.Supervisor.HoldUnitTest do
  # What a strategy restarts together is held together, and comes back together.
  use ExUnit.Case, async: true

  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  describe "one_for_all" do
    test "ends the others, last first, and holds all" do
      {sup, %{b: b}} = start(:long, traps([:a, :b, :c]), strategy: :one_for_all)
      exit_by_memory(b)
      assert %{ids: [:a, :b, :c]} = eventually(fn -> held(sup, :b) end)
      assert [b: _, c: :shutdown, a: :shutdown] = stopped(3)
      assert %{active: 0, specs: 3} = Supervisor.count_children(sup)
    end

    test "brings all back, in start order" do
      {sup, %{b: b}} = start(:short, [:a, :b, :c], strategy: :one_for_all)
      kill(b)
      assert [:a, :b, :c] = starts(3)
      assert [:a, :b, :c] = running(sup)
    end

    test "does not bring back a temporary sibling" do
      children = [:a, worker(:b, restart: :temporary), :c]
      {sup, %{a: a}} = start(:short, children, strategy: :one_for_all)
      kill(a)
      assert [:a, :c] = starts(2)
      assert [:a, :c] = running(sup)
    end

    test "tries those again that did not start" do
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 2, do: {:error, :not_yet}, else: :ok
      end

      {sup, %{a: a}} = start(:short, [:a, worker(:b, start: start), :c], strategy: :one_for_all)

      kill(a)
      assert [:a, :b, :c] = Enum.sort(starts(3))
      eventually(fn -> running(sup) == [:a, :b, :c] end)
    end

    test "several killed at once come back once" do
      {sup, workers} = start(:short, [:a, :b, :c], strategy: :one_for_all)
      for {_, worker} <- workers, do: Process.exit(worker, {:shutdown, :memory_pressure})
      assert [:a, :b, :c] = starts(3)
      eventually(fn -> held(sup, :a) == nil and held(sup, :b) == nil and held(sup, :c) == nil end)
      assert [:a, :b, :c] = running(sup)
      refute_received {:started, _, _}
    end
  end

  describe "rest_for_one" do
    test "ends and holds what was started later; what came before lives on" do
      {sup, %{b: b}} = start(:long, traps([:a, :b, :c, :d]), strategy: :rest_for_one)
      exit_by_memory(b)
      assert %{ids: [:b, :c, :d]} = eventually(fn -> held(sup, :b) end)
      assert [b: _, d: :shutdown, c: :shutdown] = stopped(3)
      assert [:a] = running(sup)
    end

    test "brings them back in start order" do
      {sup, %{b: b}} = start(:short, [:a, :b, :c], strategy: :rest_for_one)
      kill(b)
      assert [:b, :c] = starts(2)
      assert [:a, :b, :c] = running(sup)
    end

    test "the last child is a unit of its own" do
      {sup, %{c: c}} = start(:long, [:a, :b, :c], strategy: :rest_for_one)
      assert %{ids: [:c]} = hold(sup, :c, c)
      assert [:a, :b] = running(sup)
    end

    test "an earlier child killed while later ones are held takes them along" do
      {sup, %{a: a, b: b}} = start(:long, [:a, :b, :c], strategy: :rest_for_one)
      hold(sup, :b, b)
      assert %{ids: [:a, :b, :c]} = hold(sup, :a, a)
      assert held(sup, :b) == nil
    end
  end

  describe "the user's word on a part of what is held" do
    test "restart_child for the killed one: the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      {:ok, _} = Supervisor.restart_child(sup, :b)
      assert %{ids: [:a, :c]} = held(sup, :b)
    end

    test "terminate_child for one: it stays down, the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      :ok = Supervisor.terminate_child(sup, :a)
      assert %{ids: [:b, :c]} = held(sup, :b)
      :ok = Supervisor.terminate_child(sup, :b)
      assert %{ids: [:c]} = held(sup, :b)
      :ok = Supervisor.terminate_child(sup, :c)
      assert held(sup, :b) == nil
    end

    test "delete_child for one: it is gone, the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      :ok = Supervisor.delete_child(sup, :c)
      assert %{ids: [:a, :b]} = held(sup, :b)
    end
  end

  defp traps(ids), do: for(id <- ids, do: worker(id, trap_exit: true))

  # A GenServer that traps exits takes its parent's signal only; by a call of its own it leaves
  # with the same reason.
  defp exit_by_memory(worker), do: GenServer.cast(worker, {:stop, {:shutdown, :memory_pressure}})

  defp starts(count), do: for(_ <- 1..count, do: receive(do: ({:started, id, _} -> id)))

  defp stopped(count),
    do: for(_ <- 1..count, do: receive(do: ({:stopped, id, reason} -> {id, reason})))
end
