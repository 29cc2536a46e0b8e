defmodule OOM.Supervisor.HoldGivenUpTest do
  # A worker that is killed again and again, and who brings it back.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  alias OOM.{Held, Holds, Level}

  setup_all do
    {:ok, started} = Application.ensure_all_started(:sasl)
    on_exit(fn -> for app <- started, do: Application.stop(app) end)
  end

  setup do
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    :ok
  end

  describe "a worker killed max_kills times" do
    test "stays down, with an alarm and a line in the log" do
      log =
        capture_log(fn ->
          {sup, a} = given_up(2)
          assert [%Held{} = held] = held_by(sup)
          assert %{id: :a, ids: [:a], kills: 2, max_kills: 2, state: :given_up} = held
          assert held.due_in_ms == nil and held.held_ms >= 0
          assert alarm?(sup, :a)
          refute Process.alive?(a)
        end)

      assert log =~ ":a under #PID<"
      assert log =~ "is given up: it was killed 2 times"
      assert log =~ "It stays down until OOM.release({#PID<"
    end

    test "is not given up before that" do
      {sup, %{a: a}} = start(:short, [limited(3)])
      kill(a)
      kill(started(:a))
      a = started(:a)
      eventually(fn -> held_by(sup) == [] end)
      kill(a)
      eventually(fn -> match?([%{state: :given_up}], held_by(sup)) end)
    end

    test "by the option of the supervisor, too" do
      options = [oom: [backoff: [initial_ms: 10, max_ms: 50], max_kills: 1]]
      {sup, %{a: a}} = start(:short, [:a], options)
      kill(a)
      eventually(fn -> match?([%{state: :given_up}], held_by(sup)) end)
    end

    test "takes its unit with it" do
      {sup, %{b: b}} = start(:short, [:a, limited(1, :b), :c], strategy: :rest_for_one)

      kill(b)
      eventually(fn -> match?([%{state: :given_up, ids: [:b, :c]}], held_by(sup)) end)
      assert :ok = OOM.release({sup, :c})
      assert [:a, :b, :c] = running(sup)
    end

    test "is not told twice, nor forgotten, after a crash of who tells" do
      {sup, _} = given_up(1)
      log = capture_log(fn -> crash(Holds) end)
      refute log =~ "is given up"
      assert [%{state: :given_up}] = held_by(sup)
      assert alarm?(sup, :a)
      assert :ok = OOM.release({sup, :a})
      started(:a)
      eventually(fn -> not alarm?(sup, :a) end)
    end

    test "is told after a crash before it was" do
      {sup, %{a: a}} = start(:short, [limited(1)])
      :sys.suspend(Holds)
      kill(a)
      eventually(fn -> match?([%{state: :given_up}], held_by(sup)) end)
      log = capture_log(fn -> crash(Holds) end)
      assert log =~ "is given up"
      assert alarm?(sup, :a)
    end

    test "is started by Supervisor.restart_child/2 as well, which ends the alarm" do
      {sup, _} = given_up(1)
      assert {:ok, _} = Supervisor.restart_child(sup, :a)
      eventually(fn -> not alarm?(sup, :a) end)
      assert held_by(sup) == []
    end

    test "ends the alarm when its supervisor ends" do
      {sup, _} = given_up(1)
      Supervisor.stop(sup)
      eventually(fn -> not alarm?(sup, :a) end)
      assert held_by(sup) == []
    end
  end

  describe "release/1" do
    test "starts one that is given up, with its kills forgotten, and ends the alarm" do
      {sup, a} = given_up(2)
      assert :ok = OOM.release({sup, :a})
      new = started(:a)
      assert new != a
      eventually(fn -> not alarm?(sup, :a) end)
      assert held_by(sup) == []
      kill(new)
      started(:a)
      assert kills(sup, :a) == 1
    end

    test "starts one that waits, whatever the level" do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      Level.put(:critical)
      on_exit(fn -> Level.put(:normal) end)
      assert [%{state: :waiting, due_in_ms: due}] = held_by(sup)
      assert due > 0
      assert :ok = OOM.release({sup, :a})
      started(:a)
      assert held_by(sup) == []
    end

    test "takes what held/0 lists, and names" do
      {sup, %{a: a, b: b}} = start(:long, [:a, :b], name: __MODULE__.Named)
      hold(sup, :a, a)
      hold(sup, :b, b)
      assert :ok = OOM.release(Enum.find(held_by(sup), &(&1.id == :a)))
      started(:a)
      assert :ok = OOM.release({__MODULE__.Named, :b})
      started(:b)
      :global.register_name({__MODULE__, :named}, sup)
      kill(eventually(fn -> hd(for {:a, p, _, _} <- Supervisor.which_children(sup), do: p) end))
      eventually(fn -> held(sup, :a) end)
      assert :ok = OOM.release({{:global, {__MODULE__, :named}}, :a})
      started(:a)
    end

    test "is an error for what is not held" do
      {sup, _} = start(:long, [:a])
      assert {:error, :not_held} = OOM.release({sup, :a})
      assert {:error, :not_held} = OOM.release({sup, :b})
      assert {:error, :not_held} = OOM.release({__MODULE__.Nobody, :a})
      assert {:error, :not_held} = OOM.release({{:global, :nobody}, :a})
    end

    test "raises for what is no name of a hold" do
      for wrong <- [:a, nil, {1, :a}, {"sup", :a}, self()] do
        assert_raise ArgumentError,
                     ~r/^expected held to be {supervisor, id}, .*, got: /,
                     fn -> OOM.release(wrong) end
      end
    end

    test "tells why it did not start, and it is held again" do
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 1, do: :ok, else: {:error, :not_yet}
      end

      {sup, %{a: a}} = start(:long, [worker(:a, start: start)])
      hold(sup, :a, a)
      assert {:error, :not_yet} = OOM.release({sup, :a})
      assert [%{state: :waiting, kills: 0, failures: 1}] = held_by(sup)
    end

    test "of one that is on its way waits for that, and starts it once" do
      {start, starts} = waits_at_start(2)

      {sup, %{a: a}} = start(:long, [worker(:a, start: start)])
      hold(sup, :a, a)
      first = Task.async(fn -> OOM.release({sup, :a}) end)
      assert_receive {:starting, ^sup}, 10_000
      assert [%{state: :returning}] = held_by(sup)
      second = Task.async(fn -> OOM.release({sup, :a}) end)
      eventually(fn -> match?([[_, _]], callers()) end)
      send(sup, :go)
      assert [:ok, :ok] = Task.await_many([first, second])
      started(:a)
      assert :counters.get(starts, 1) == 2
    end
  end

  test "one that has lived for stable_ms before it is killed again begins anew" do
    {sup, %{a: a}} = start(:short, [limited(2)])
    kill(a)
    new = started(:a)

    # As if it had been long ago, and nobody had looked since.
    key = {sup, :a}
    eventually(fn -> match?(%{state: :running}, Holds.Store.lookup(key)) end)
    :sys.suspend(Holds)
    Holds.Store.update(key, &%{&1 | released_ms: &1.released_ms - 60_000})
    kill(new)
    assert %{state: :held, kills: 1} = eventually(fn -> held(sup, :a) end)
    :sys.resume(Holds)
    started(:a)
  end

  defp limited(kills, id \\ :a), do: OOM.child_spec(worker(id), max_kills: kills)

  defp given_up(kills) do
    {sup, %{a: a}} = start(:short, [limited(kills)])

    last =
      Enum.reduce(2..kills//1, a, fn _, pid ->
        kill(pid)
        started(:a)
      end)

    kill(last)
    eventually(fn -> match?([%{state: :given_up}], held_by(sup)) and alarm?(sup, :a) end)
    {sup, last}
  end

  defp held_by(sup), do: Enum.filter(OOM.held(), &(&1.supervisor == sup))

  defp alarm?(sup, id),
    do: List.keymember?(:alarm_handler.get_alarms(), {:oom_given_up, {sup, id}}, 0)

  defp callers, do: for({_, {_, _, callers}} <- :sys.get_state(Holds).releases, do: callers)

  defp crash(name) do
    before = Process.whereis(name)
    ref = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}
    eventually(fn -> Process.whereis(name) not in [nil, before] end)
    :sys.get_state(name)
  end
end
