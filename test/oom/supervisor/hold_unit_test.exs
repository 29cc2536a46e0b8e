defmodule OOM.Supervisor.HoldUnitTest do
  # Children restarted together by a strategy are held together, and come back together.
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

    test "tries failed starts again" do
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
    test "ends and holds the children started later; earlier ones live on" do
      {sup, %{b: b}} = start(:long, traps([:a, :b, :c, :d]), strategy: :rest_for_one)
      exit_by_memory(b)
      assert %{ids: [:b, :c, :d]} = eventually(fn -> held(sup, :b) end)
      assert [b: _, d: :shutdown, c: :shutdown] = stopped(3)
      assert [:a] = running(sup)
    end

    test "brings the unit back in start order" do
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

  describe "a crash of a running child, while others are held" do
    test "under rest_for_one leaves them down" do
      {sup, %{a: a, c: c}} =
        start(:long, [:a, :b, :c, :d], strategy: :rest_for_one, max_restarts: 1)

      hold(sup, :c, c)
      GenServer.cast(a, {:stop, :crash})
      assert [:a, :b] = starts(2)
      assert [:a, :b] = running(sup)
      assert %{ids: [:c, :d]} = held(sup, :c)
    end

    test "under one_for_all leaves them down" do
      {sup, %{a: a}} = start(:long, [:a, :b], strategy: :one_for_all, max_restarts: 1)
      hold(sup, :a, a)
      {:ok, c} = Supervisor.start_child(sup, worker(:c))
      assert c == started(:c)
      GenServer.cast(c, {:stop, :crash})
      started(:c)
      assert [:c] = running(sup)
      assert %{ids: [:a, :b]} = held(sup, :a)
    end

    test "a restart that has to be tried again leaves them down, too" do
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 2, do: {:error, :not_yet}, else: :ok
      end

      children = [worker(:a, start: start), :b, :c]
      {sup, %{a: a, b: b}} = start(:long, children, strategy: :rest_for_one, max_restarts: 2)
      hold(sup, :b, b)
      GenServer.cast(a, {:stop, :crash})
      started(:a)
      assert [:a] = running(sup)
      assert :counters.get(starts, 1) == 3
    end

    test "restarts a child of the unit that its user has started" do
      {sup, %{a: a, b: b}} = start(:long, [:a, :b, :c], strategy: :rest_for_one, max_restarts: 1)

      hold(sup, :b, b)
      {:ok, _} = Supervisor.restart_child(sup, :c)
      started(:c)
      GenServer.cast(a, {:stop, :crash})
      assert [:a, :c] = starts(2)
      assert [:a, :c] = running(sup)
    end
  end

  test "a temporary sibling that a strategy ends is not remembered" do
    {sup, %{a: a}} = start(:long, [:a], strategy: :one_for_all, max_restarts: 10)
    entries = fn -> length(elem(Process.info(sup, :dictionary), 1)) end
    before = entries.()

    Enum.reduce(1..5, a, fn n, a ->
      {:ok, _} = Supervisor.start_child(sup, worker({:t, n}, restart: :temporary))
      started({:t, n})
      GenServer.cast(a, {:stop, :crash})
      started(:a)
    end)

    assert [:a] = running(sup)
    assert entries.() == before
  end

  describe "a child ended by memory while its supervisor starts the child" do
    test "is held, and the supervisor starts" do
      {:ok, sup} =
        OOM.Supervisor.start_link([worker(:a), worker(:b, start: once_short()), worker(:c)],
          strategy: :one_for_one,
          max_restarts: 0,
          oom: [backoff: [initial_ms: 10, max_ms: 50]]
        )

      assert [:a, :c, :b] = starts(3)
      eventually(fn -> running(sup) == [:a, :b, :c] end)
    end

    test "is held in a restart, which is not tried again" do
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 2, do: {:error, {:shutdown, :memory_pressure}}, else: :ok
      end

      {sup, %{a: a}} =
        start(:long, [worker(:a, start: start)], strategy: :one_for_one, max_restarts: 1)

      GenServer.cast(a, {:stop, :crash})
      assert %{ids: [:a]} = eventually(fn -> held(sup, :a) end)
      assert [] = running(sup)
    end

    test "is an error to the caller" do
      {sup, _} = start(:long, [])

      assert {:error, {{:shutdown, :memory_pressure}, _}} =
               Supervisor.start_child(sup, worker(:a, start: once_short()))

      assert [] = Supervisor.which_children(sup)
    end
  end

  # Ended by memory at the first start.
  defp once_short do
    starts = :counters.new(1, [])

    fn ->
      :counters.add(starts, 1, 1)
      if :counters.get(starts, 1) == 1, do: {:error, {:shutdown, :memory_pressure}}, else: :ok
    end
  end

  describe "the user's word on a part of the held unit" do
    test "restart_child for the killed child: the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      {:ok, _} = Supervisor.restart_child(sup, :b)
      assert %{ids: [:a, :c]} = held(sup, :b)
    end

    test "terminate_child for one child: it stays down, the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      :ok = Supervisor.terminate_child(sup, :a)
      assert %{ids: [:b, :c]} = held(sup, :b)
      :ok = Supervisor.terminate_child(sup, :b)
      assert %{ids: [:c]} = held(sup, :b)
      :ok = Supervisor.terminate_child(sup, :c)
      assert held(sup, :b) == nil
    end

    test "delete_child for one child: it is gone, the others still come back" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      :ok = Supervisor.delete_child(sup, :c)
      assert %{ids: [:a, :b]} = held(sup, :b)
    end
  end

  defp traps(ids), do: for(id <- ids, do: worker(id, trap_exit: true))

  # A GenServer trapping exits accepts only its parent's signal. By a call of its own the worker leaves
  # with the same reason.
  defp exit_by_memory(worker), do: GenServer.cast(worker, {:stop, {:shutdown, :memory_pressure}})

  defp starts(count), do: for(_ <- 1..count, do: receive(do: ({:started, id, _} -> id)))

  defp stopped(count),
    do: for(_ <- 1..count, do: receive(do: ({:stopped, id, reason} -> {id, reason})))
end
