defmodule OOM.Supervisor.HoldGivenUpTest do
  # A worker that is killed again and again, and the ways to bring the worker back.
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

    test "is not given up before that many kills" do
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

    test "is not told twice, nor forgotten, after a crash of the teller" do
      {sup, _} = given_up(1)
      log = capture_log(fn -> crash(Holds) end)
      refute log =~ "is given up"
      assert [%{state: :given_up}] = held_by(sup)
      assert alarm?(sup, :a)
      assert :ok = OOM.release({sup, :a})
      started(:a)
      eventually(fn -> not alarm?(sup, :a) end)
    end

    test "is told after a crash before the telling" do
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
    test "starts a child that is given up, with its kills forgotten, and ends the alarm" do
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

    test "starts a child that waits, whatever the level" do
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

    test "takes entries of held/0, and registered names" do
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

    test "is an error for a child that is not held" do
      {sup, _} = start(:long, [:a])
      assert {:error, :not_held} = OOM.release({sup, :a})
      assert {:error, :not_held} = OOM.release({sup, :b})
      assert {:error, :not_held} = OOM.release({__MODULE__.Nobody, :a})
      assert {:error, :not_held} = OOM.release({{:global, :nobody}, :a})
    end

    test "raises for an argument that names no hold" do
      for wrong <- [:a, nil, {1, :a}, {"sup", :a}, self()] do
        assert_raise ArgumentError,
                     ~r/^expected held to be {supervisor, id}, .*, got: /,
                     fn -> OOM.release(wrong) end
      end
    end

    test "tells why the child did not start, and the child is held again" do
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

    test "of a hold on its way waits for the start, and starts the child once" do
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

  describe "a child whose start fails" do
    test "is told once for each reason, with an alarm after three in a row, until it starts" do
      test = self()
      answer = :atomics.new(1, [])

      start = fn ->
        send(test, :asked)
        Enum.at([:ok, {:error, :econnrefused}, {:error, :nxdomain}], :atomics.get(answer, 1))
      end

      log =
        capture_log(fn ->
          {sup, %{a: a}} = start(:short, [worker(:a, start: start)])
          :atomics.put(answer, 1, 1)
          kill(a)
          eventually(fn -> fails(sup) >= 2 end)
          :atomics.put(answer, 1, 2)
          eventually(fn -> fails(sup) >= 3 and alarm?(sup, :a, :oom_start_fails) end)
          many = fails(sup) + 2
          eventually(fn -> fails(sup) >= many end)
          :atomics.put(answer, 1, 0)
          started(:a)
          eventually(fn -> not alarm?(sup, :a, :oom_start_fails) end)
          assert held_by(sup) == []
        end)

      # Of some ten failures the log tells the first, the alarm, and the first failure with another reason,
      # unless the alarm told the reason.
      told = ~r/\] OOM: :a under #PID<[0-9.]+> was held and could not be started/
      assert length(Regex.scan(told, log)) in 2..3
      assert [_] = Regex.scan(~r/\[warning\] OOM: .* could not be started: :econnrefused/, log)
      assert [_] = Regex.scan(~r/\[error\] OOM: .* \(3 times in a row\)/, log)
      assert log =~ ":nxdomain"
      assert log =~ ~r/OOM: :a under #PID<.*It is tried again after its backoff/
    end

    test "ends the alarm where its user decides, and where its supervisor ends" do
      for ends <- [&Supervisor.terminate_child(&1, :a), &Supervisor.stop/1] do
        starts = :counters.new(1, [])

        start = fn ->
          :counters.add(starts, 1, 1)
          if :counters.get(starts, 1) == 1, do: :ok, else: {:error, :no}
        end

        {sup, %{a: a}} = start(:short, [worker(:a, start: start)])
        kill(a)
        eventually(fn -> alarm?(sup, :a, :oom_start_fails) end)
        ends.(sup)
        eventually(fn -> not alarm?(sup, :a, :oom_start_fails) end)
      end
    end
  end

  describe "a child that another process has started meanwhile" do
    test "is no longer held, under a DynamicSupervisor" do
      dynamic = start_supervised!(DynamicSupervisor)
      other = start_supervised!({Agent, fn -> 0 end})
      {gone, ref} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^ref, _, _, _}
      start = fn -> {:error, {:already_started, other}} end
      %{start: mfa} = worker(:a, start: start)
      request = {mfa, :permanent, 5_000, :worker, [OOM.Test.Worker]}
      options = [backoff: [initial_ms: 1, max_ms: 1], return: {:start_child, request}]

      log =
        capture_log(fn ->
          :ok = Holds.Down.hold(dynamic, gone, [{gone, true}], gone, options)
          eventually(fn -> OOM.Holds.Store.all(dynamic) == [] end)
          assert OOM.release({dynamic, gone}) == {:error, :not_held}
        end)

      assert log =~ ~r/\[info\].* is no longer held: #{inspect(other)} was started in its place/
      refute log =~ "could not be started"
    end

    test "is no longer held, under an OOM.Supervisor, and its siblings come back" do
      other = start_supervised!({Agent, fn -> 0 end})
      starts = :counters.new(1, [])

      start = fn ->
        :counters.add(starts, 1, 1)
        if :counters.get(starts, 1) == 1, do: :ok, else: {:error, {:already_started, other}}
      end

      children = [worker(:a, start: start), :b]
      {sup, %{a: a}} = start(:long, children, strategy: :one_for_all)
      hold(sup, :a, a)
      assert :ok = OOM.release({sup, :a})
      started(:b)
      assert running(sup) == [:b]
      assert held_by(sup) == []
    end
  end

  describe "a child for which there is no room" do
    test "larger than the limit is told at once, and is tried alone" do
      child = OOM.child_spec(worker(:a), backoff: [initial_ms: 1, max_ms: 300])

      log =
        capture_log(fn ->
          {sup, %{a: a}} = start(:long, [child])
          kill_of(a, 1_000_000_000_000_000)
          eventually(fn -> alarm?(sup, :a, :oom_no_room) end)
          again = started(:a)
          # The child may not hold as much again. A known lack of room is not told again.
          assert alarm?(sup, :a, :oom_no_room)
          kill_of(again, 1_000_000_000_000_000)
          started(:a)
          assert OOM.Holds.Store.lookup({sup, :a}).no_room?
          Supervisor.stop(sup)
          eventually(fn -> not alarm?(sup, :a, :oom_no_room) end)
        end)

      said = ~r/\[error\] OOM: there is no room for :a under #PID<.*it last held 953674316/
      assert [_] = Regex.scan(said, log)
    end

    test "is told when it has found no room for its longest backoff" do
      child = OOM.child_spec(worker(:a), backoff: [initial_ms: 1, max_ms: 50])
      {sup, %{a: a}} = start(:long, [child])
      snapshot = OOM.snapshot()
      # The room with nothing in use: the limit less twice the floor.
      bytes = snapshot.limit_bytes - 2 * snapshot.critical_headroom_bytes

      log =
        capture_log(fn ->
          kill_of(a, bytes)
          started(:a)
          eventually(fn -> alarm?(sup, :a, :oom_no_room) end)
        end)

      assert log =~ "there is no room for :a"
      # The child counts as alive only once its return is known.
      eventually(fn -> is_integer(OOM.Holds.Store.lookup({sup, :a}).released_ms) end)
      OOM.Holds.Store.update({sup, :a}, &%{&1 | released_ms: &1.released_ms - 1_000_000})
      Holds.changed({sup, :a})
      eventually(fn -> not alarm?(sup, :a, :oom_no_room) end)
      assert OOM.Holds.Store.lookup({sup, :a}) == nil
    end

    test "keeps the alarm under its new pid where its supervisor gives no ids" do
      dynamic = start_supervised!(DynamicSupervisor)
      {gone, ref} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^ref, _, _, _}
      %{start: mfa} = worker(:a)
      request = {mfa, :permanent, 5_000, :worker, [OOM.Test.Worker]}
      options = [backoff: [initial_ms: 1, max_ms: 20], return: {:start_child, request}]
      OOM.Victims.mark(gone, System.monotonic_time(:millisecond), 1_000_000_000_000_000)
      :ok = Holds.Down.hold(dynamic, gone, [{gone, true}], gone, options)
      new = started(:a)
      eventually(fn -> alarm?(dynamic, new, :oom_no_room) end)
      refute alarm?(dynamic, gone, :oom_no_room)
    end
  end

  test "a child that has lived for stable_ms before the next kill begins anew" do
    {sup, %{a: a}} = start(:short, [limited(2)])
    kill(a)
    new = started(:a)

    # As if the start had been long ago, without a look since.
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

  defp alarm?(sup, id, kind \\ :oom_given_up),
    do: List.keymember?(:alarm_handler.get_alarms(), {kind, {sup, id}}, 0)

  defp fails(sup),
    do: with(nil <- OOM.Holds.Store.lookup({sup, :a}), do: %{failed_starts: 0}).failed_starts

  # Kills a child as the guard does, with the given size.
  defp kill_of(pid, bytes) do
    OOM.Victims.mark(pid, System.monotonic_time(:millisecond), bytes)
    kill(pid)
  end

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
