defmodule OOM.Supervisor.HoldTest do
  use ExUnit.Case, async: true

  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  alias OOM.Workers

  describe "a killed child" do
    test "is not restarted, and its specification stays" do
      {sup, %{a: a}} = start(:long, [:a, :b])
      hold(sup, :a, a)

      assert [:b] = running(sup)
      assert %{active: 1, specs: 2} = Supervisor.count_children(sup)
      assert {:a, :undefined, :worker, _} = List.keyfind(Supervisor.which_children(sup), :a, 0)
      refute_received {:started, :a, _}
    end

    test "costs no restart intensity, however often" do
      {sup, workers} = start(:long, for(n <- 1..20, do: :"w#{n}"), max_restarts: 0)
      for {id, worker} <- workers, do: hold(sup, id, worker)
      assert %{active: 0, specs: 20} = Supervisor.count_children(sup)
    end

    test "leaves with the reason that links and monitors see" do
      {_sup, %{a: a}} = start(:long, [:a])
      test = self()

      linked =
        spawn(fn ->
          Process.flag(:trap_exit, true)
          Process.link(a)
          send(test, :linked)
          receive(do: ({:EXIT, ^a, reason} -> send(test, {:seen, reason})))
        end)

      assert_receive :linked
      ref = Process.monitor(a)
      Process.exit(a, {:shutdown, :memory_pressure})
      assert_receive {:DOWN, ^ref, :process, ^a, {:shutdown, :memory_pressure}}, 5_000
      assert_receive {:seen, {:shutdown, :memory_pressure}}, 5_000
      refute linked == a
    end

    test "comes back by itself" do
      {sup, %{a: a}} = start(:short, [:a])
      kill(a)
      new = started(:a)
      assert new != a
      eventually(fn -> held(sup, :a) == nil end)
      assert [:a] = running(sup)
    end

    test "is registered again as before" do
      child = OOM.child_spec(worker(:a), priority: 42)
      {sup, %{a: a}} = start(:short, [child])
      assert {_, 42, _, _, _, ^sup, :a, _, _} = Workers.lookup(a)
      kill(a)
      new = started(:a)
      # Registered by the supervisor after the start.
      assert [:a] = running(sup)
      assert {_, 42, _, _, _, ^sup, :a, _, _} = Workers.lookup(new)
      eventually(fn -> Workers.lookup(a) == nil end)
    end

    test "is held longer each time" do
      {sup, %{a: a}} = start(:short, [:a])
      kill(a)
      eventually(fn -> kills(sup, :a) == 1 end)
      kill(started(:a))
      eventually(fn -> kills(sup, :a) == 2 end)
      kill(started(:a))
      eventually(fn -> kills(sup, :a) == 3 end)
    end

    test "holds by its own backoff" do
      long = [initial_ms: 300_000_000_000, max_ms: 300_000_000_000]
      child = OOM.child_spec(worker(:a), backoff: long)
      {sup, %{a: a}} = start(:short, [child])
      before = System.monotonic_time(:millisecond)
      assert %{due_ms: due} = hold(sup, :a, a)
      assert (due - before) in 100_000..300_000_010_000
    end

    test "that was started later is held too" do
      {sup, _} = start(:short, [])
      {:ok, a} = Supervisor.start_child(sup, worker(:a))
      assert a == started(:a)
      kill(a)
      assert started(:a) != a
    end

    test "that is transient comes back too" do
      {_sup, %{a: a}} = start(:short, [worker(:a, restart: :transient)])
      kill(a)
      assert started(:a) != a
    end

    test "that is temporary is forgotten" do
      {sup, %{a: a}} = start(:short, [worker(:a, restart: :temporary)])
      kill(a)
      eventually(fn -> Supervisor.which_children(sup) == [] end)
      assert held(sup, :a) == nil
    end

    test "that is significant does not shut its supervisor down" do
      child = worker(:a, restart: :transient, significant: true)
      flags = %{strategy: :one_for_one, auto_shutdown: :any_significant, intensity: 0, period: 5}

      start = {OOM.Test.Trees.OfOOM, :start_link, [fn -> {:ok, {flags, [child]}} end, long()]}
      sup = start_supervised!(%{id: :sup, start: start})
      hold(sup, :a, started(:a))
      assert %{active: 0} = Supervisor.count_children(sup)
    end

    test "cannot be started a second time under its id" do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      assert {:error, :already_present} = Supervisor.start_child(sup, worker(:a))
    end

    test "crashes like any other once it is back" do
      {sup, %{a: a}} = start(:short, [:a], max_restarts: 1, max_seconds: 1_000)
      ref = Process.monitor(sup)
      kill(a)
      kill(started(:a))
      GenServer.cast(started(:a), {:stop, :crash})
      GenServer.cast(started(:a), {:stop, :crash})
      assert_receive {:DOWN, ^ref, _, _, :shutdown}, 10_000
    end
  end

  describe "a child that does not start when it comes back" do
    for {how, start} <- [error: {:error, :not_yet}, raise: :raise, garbage: :garbage] do
      @tag failure: start
      test "is tried again, later (#{how})", %{failure: failure} do
        starts = :counters.new(1, [])

        start = fn ->
          :counters.add(starts, 1, 1)

          cond do
            :counters.get(starts, 1) not in [2, 3] -> :ok
            failure == :raise -> raise "not yet"
            true -> failure
          end
        end

        {sup, %{a: a}} = start(:short, [worker(:a, start: start)])
        kill(a)
        started(:a)
        assert :counters.get(starts, 1) == 4
        # Each failure waits as long as a further kill.
        assert kills(sup, :a) == 3
        assert [:a] = running(sup)
      end
    end

    test "and is ignored stays down, as with restart_child/2" do
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 1, do: :ok, else: :ignore
      end

      {sup, %{a: a}} = start(:short, [worker(:a, start: start)])
      kill(a)
      eventually(fn -> :counters.get(starts, 1) == 2 and held(sup, :a) == nil end)
      assert [] = running(sup)
    end
  end

  describe "the user's word ends a hold:" do
    setup do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      %{sup: sup}
    end

    test "restart_child starts it now", %{sup: sup} do
      assert {:ok, pid} = Supervisor.restart_child(sup, :a)
      assert pid == started(:a)
      assert held(sup, :a) == nil
    end

    test "terminate_child leaves it down", %{sup: sup} do
      assert :ok = Supervisor.terminate_child(sup, :a)
      assert held(sup, :a) == nil
      assert [{:a, :undefined, _, _}] = Supervisor.which_children(sup)
    end

    test "delete_child deletes it", %{sup: sup} do
      assert :ok = Supervisor.delete_child(sup, :a)
      assert held(sup, :a) == nil
      assert [] = Supervisor.which_children(sup)
    end

    test "an unknown id does not", %{sup: sup} do
      assert {:error, :not_found} = Supervisor.restart_child(sup, :b)
      assert %{state: :held} = held(sup, :a)
    end
  end

  test "a restart_child that fails does not end the hold" do
    starts = :counters.new(1, [])

    start = fn ->
      :counters.add(starts, 1, 1)
      if :counters.get(starts, 1) == 1, do: :ok, else: {:error, :not_yet}
    end

    {sup, %{a: a}} = start(:long, [worker(:a, start: start)])
    hold(sup, :a, a)
    assert {:error, :not_yet} = Supervisor.restart_child(sup, :a)
    assert %{state: :held} = held(sup, :a)
  end

  describe "a supervisor that ends while children are held" do
    test "leaves no hold behind" do
      {sup, %{a: a, b: b}} = start(:long, [:a, :b])
      hold(sup, :a, a)
      hold(sup, :b, b)
      :ok = Supervisor.stop(sup)
      eventually(fn -> :ets.match(OOM.Holds, {{sup, :_}, :_}) == [] end)
    end

    test "leaves no held child behind when it is killed" do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      Process.exit(sup, :kill)
      eventually(fn -> :ets.match(OOM.Holds, {{sup, :_}, :_}) == [] end)
    end
  end

  test "a child of a plain supervisor is no hold but a crash" do
    children = [OOM.child_spec(worker(:a), priority: :low)]

    sup =
      start_supervised!(%{
        id: :sup,
        start: {Supervisor, :start_link, [children, [strategy: :one_for_one]]}
      })

    kill(started(:a))
    started(:a)
    assert held(sup, :a) == nil
  end

  test "exits that only look alike are crashes" do
    {sup, _} = start(:long, [:a], max_restarts: 10)

    for reason <- [:memory_pressure, {:shutdown, :memory}, {:shutdown, {:memory_pressure, 1}}] do
      [{:a, worker, _, _}] = Supervisor.which_children(sup)
      GenServer.cast(worker, {:stop, reason})
      started(:a)
      assert held(sup, :a) == nil
    end
  end

  defp long, do: [oom: [backoff: [initial_ms: 1_000_000_000_000, max_ms: 1_000_000_000_000]]]
end
