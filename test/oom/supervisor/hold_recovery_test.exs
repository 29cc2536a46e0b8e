defmodule OOM.Supervisor.HoldRecoveryTest do
  # Parts of the application are stopped and killed here, and the level is set by hand.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  alias OOM.{Guard, Holds, Level, RecentKills, Tables, Victims}

  # An earlier test may have restarted the application. Until the watcher has looked, no limit is known, and
  # everything fits.
  setup do
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    :ok
  end

  describe "a held child comes back" do
    test "when the returning process has crashed meanwhile" do
      {sup, %{a: a}} = start(:short, [:a])
      guard_kills()
      hold(sup, :a, a)
      crash(Holds)
      assert %{state: :held} = held(sup, :a)
      guard_rests()
      assert started(:a) != a
    end

    test "when the returning process crashes during the return" do
      {start, starts} = waits_at_start(2)

      {sup, %{a: a}} = start(:short, [worker(:a, start: start)])
      kill(a)
      assert_receive {:starting, ^sup}, 10_000
      crash(Holds)
      send(sup, :go)
      new = started(:a)
      eventually(fn -> held(sup, :a) == nil end)
      assert [{:a, ^new, _, _}] = Supervisor.which_children(sup)
      assert :counters.get(starts, 1) == 2
    end

    test "when the guard has crashed meanwhile" do
      {sup, %{a: a}} = start(:short, [:a])
      guard_kills()
      hold(sup, :a, a)
      crash(Guard)
      guard_rests()
      assert started(:a) != a
    end

    for level <- [:elevated, :high, :critical] do
      test "where there is room, though the level is #{level}" do
        {sup, %{a: a}} = start(:short, [:a])
        Level.put(unquote(level))
        on_exit(fn -> Level.put(:normal) end)
        kill(a)
        assert started(:a) != a
        eventually(fn -> held(sup, :a) == nil end)
      end
    end

    test "not while the guard is killing" do
      {sup, %{a: a}} = start(:short, [:a])
      guard_kills()
      %{due_ms: due} = hold(sup, :a, a)
      eventually(fn -> System.monotonic_time(:millisecond) > due end)
      tick()
      assert %{state: :held} = held(sup, :a)
      guard_rests()
      assert started(:a) != a
    end
  end

  test "a hold is not lost when its supervisor ends while nobody watches" do
    {sup, %{a: a}} = start(:long, [:a])
    hold(sup, :a, a)
    :sys.suspend(Holds)
    Supervisor.stop(sup)
    crash(Holds)
    eventually(fn -> :ets.match(Holds, {{sup, :_}, :_}) == [] end)
  end

  test "a child that waits for room does not keep a smaller one from coming back" do
    huge = OOM.child_spec(worker(:huge), backoff: [initial_ms: 1, max_ms: 60_000])
    small = OOM.child_spec(worker(:small), backoff: [initial_ms: 60, max_ms: 60])
    {sup, %{huge: h, small: s}} = start(:long, [huge, small])

    # As noted by the guard.
    now = System.monotonic_time(:millisecond)
    Victims.mark(h, now, 1_000_000_000_000_000)
    Victims.mark(s, now, 1_000)
    assert %{bytes: 1_000_000_000_000_000} = hold(sup, :huge, h)
    assert %{bytes: 1_000} = hold(sup, :small, s)

    started(:small)
    assert %{state: :held} = held(sup, :huge)
    assert %{active: 1} = Supervisor.count_children(sup)
  end

  test "children come back one at a time" do
    test = self()
    waits = :counters.new(1, [])

    start = fn ->
      if :counters.get(waits, 1) == 1 do
        send(test, {:starting, self()})
        receive(do: (:go -> :ok))
      end

      :ok
    end

    # One supervisor for each child, so that no child waits for a busy supervisor.
    trees = for id <- [:a, :b], do: {id, start(:short, [worker(id, start: start)])}
    :counters.put(waits, 1, 1)
    for {id, {_sup, workers}} <- trees, do: kill(workers[id])

    assert_receive {:starting, first}, 10_000
    [{id, other}] = for {id, {sup, _}} <- trees, sup != first, do: {id, sup}
    %{due_ms: due} = eventually(fn -> held(other, id) end)
    eventually(fn -> System.monotonic_time(:millisecond) > due end)
    tick()
    assert %{state: :held} = held(other, id)
    refute_received {:starting, _}

    send(first, :go)
    assert_receive {:starting, ^other}, 10_000
    send(other, :go)
  end

  describe "while the application is stopped" do
    setup do
      :ok = Application.stop(:oom)
      on_exit(fn -> Application.ensure_all_started(:oom) end)
    end

    test "an OOM.Supervisor is a plain one" do
      {sup, %{a: a}} = start(:short, [:a], max_restarts: 10)
      kill(a)
      started(:a)
      Process.exit(running(sup, :a), :kill)
      started(:a)
      GenServer.cast(running(sup, :a), {:stop, :crash})
      started(:a)
      assert :ok = Supervisor.terminate_child(sup, :a)
      assert {:ok, _} = Supervisor.restart_child(sup, :a)
    end
  end

  test "a supervisor outlives a stop of the application" do
    {sup, %{a: a}} = start(:short, [:a], max_restarts: 10)
    on_exit(fn -> Application.ensure_all_started(:oom) end)
    :ok = Application.stop(:oom)
    kill(a)
    a = started(:a)
    :ok = Application.start(:oom)
    assert %{active: 1} = Supervisor.count_children(sup)
    # Known again from the next start on.
    GenServer.cast(a, {:stop, :crash})
    a = started(:a)
    kill(a)
    assert started(:a) != a
    assert kills(sup, :a) == 1
  end

  describe "when the application stops" do
    setup do
      on_exit(fn -> Application.ensure_all_started(:oom) end)
    end

    test "held children come back at once" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :rest_for_one)
      hold(sup, :b, b)
      :ok = Application.stop(:oom)
      assert [:a, :b, :c] = running(sup)
    end

    test "children of supervisors that forget them come back at once" do
      sup = start_supervised!(DynamicSupervisor)
      %{start: mfa} = worker(:a)
      request = {mfa, :permanent, 5_000, :worker, [OOM.Test.Worker]}
      options = [backoff: [initial_ms: 1_000_000_000, max_ms: 1_000_000_000]]

      gone = gone()
      options = options ++ [return: {:start_child, request}]
      :ok = Holds.Down.hold(sup, gone, [{gone, true}], gone, options)

      :ok = Application.stop(:oom)
      started(:a)
      assert %{active: 1} = DynamicSupervisor.count_children(sup)
    end

    test "a busy supervisor does not delay the return" do
      {start, _starts} = waits_at_start(2)

      {sup, %{a: a}} = start(:long, [worker(:a, start: start)])
      {other, %{b: b}} = start(:long, [:b])
      hold(sup, :a, a)
      hold(other, :b, b)
      stop = Task.async(fn -> Application.stop(:oom) end)
      assert_receive {:starting, ^sup}, 10_000
      started(:b)
      assert :ok = Task.await(stop, 20_000)
      send(sup, :go)
      started(:a)
    end

    test "a child held too late is started" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :rest_for_one)
      :ok = Supervisor.terminate_child(sup, :b)
      :ok = Supervisor.terminate_child(sup, :c)
      :ok = Application.stop(:oom)
      # As the supervisor would, between two requests of the process stopping the application.
      :ok = Holds.Down.hold(sup, :b, [b: true, c: true], b, [])
      started(:b)
      started(:c)
    end

    test "a child given up stays down, and its alarm is cleared" do
      {:ok, started} = Application.ensure_all_started(:sasl)
      on_exit(fn -> for app <- started, do: Application.stop(app) end)
      {sup, %{a: a}} = start(:long, [OOM.child_spec(worker(:a), max_kills: 1)])
      hold(sup, :a, a)

      alarm? = fn ->
        List.keymember?(:alarm_handler.get_alarms(), {:oom_given_up, {sup, :a}}, 0)
      end

      eventually(alarm?)
      :ok = Application.stop(:oom)
      assert [] = running(sup)
      refute alarm?.()
      assert {:ok, _} = Supervisor.restart_child(sup, :a)
    end
  end

  describe "a hold that is on its way, while its supervisor is busy" do
    # Sends the requests so that the supervisor is asked in the given order.
    defp in_order(sup, requests) do
      :sys.suspend(sup)

      tasks =
        for {request, n} <- Enum.with_index(requests, 1) do
          task = Task.async(request)
          eventually(fn -> Process.info(sup, :message_queue_len) >= {:message_queue_len, n} end)
          task
        end

      :sys.resume(sup)
      Task.await_many(tasks)
    end

    test "stays down where the child was terminated or deleted before" do
      for {ask, listed} <- [terminate_child: [:a, :b], delete_child: [:b]] do
        {sup, %{a: a}} = start(:long, [:a, :b])
        hold(sup, :a, a)
        release = fn -> OOM.release({sup, :a}) end
        assert [:ok, _] = in_order(sup, [fn -> apply(Supervisor, ask, [sup, :a]) end, release])
        assert running(sup) == [:b]
        ids = for {id, _, _, _} <- Supervisor.which_children(sup), do: id
        assert Enum.sort(ids) == listed
        assert OOM.Holds.Store.all(sup) == []
        refute_received {:started, :a, _}
      end
    end

    test "comes back without the terminated child" do
      {sup, %{b: b}} = start(:long, [:a, :b, :c], strategy: :one_for_all)
      hold(sup, :b, b)
      terminate = fn -> Supervisor.terminate_child(sup, :a) end
      in_order(sup, [terminate, fn -> OOM.release({sup, :b}) end])
      eventually(fn -> running(sup) == [:b, :c] end)
      refute_received {:started, :a, _}
    end

    test "is started once where the child was restarted before" do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      restart = fn -> Supervisor.restart_child(sup, :a) end
      assert [{:ok, pid}, :ok] = in_order(sup, [restart, fn -> OOM.release({sup, :a}) end])
      assert started(:a) == pid
      refute_received {:started, :a, _}
    end

    test "is terminated where a later request asks for it" do
      {sup, %{a: a}} = start(:long, [:a])
      hold(sup, :a, a)
      terminate = fn -> Supervisor.terminate_child(sup, :a) end
      assert [:ok, :ok] = in_order(sup, [fn -> OOM.release({sup, :a}) end, terminate])
      assert running(sup) == []
      assert held(sup, :a) == nil
    end
  end

  test "the owner of the tables ends, and held children are still known" do
    {sup, %{a: a}} = start(:long, [:a])
    {short, %{b: b}} = start(:short, [:b])
    guard_kills()
    hold(sup, :a, a)
    hold(short, :b, b)
    crash(Tables)
    eventually(fn -> Process.whereis(Holds) && :sys.get_state(Holds) end)
    assert [%{id: :a, kills: 1}] = Enum.filter(OOM.held(), &(&1.supervisor == sup))
    guard_rests()
    # The application works on.
    kill(started(:b))
    kill(started(:b))
    assert :ok = OOM.release({sup, :a})
    started(:a)
    # Twice, as the heir must be present again.
    crash(Tables)
    eventually(fn -> Process.whereis(OOM.Guard) && :sys.get_state(OOM.Guard) end)
    started(:b)
    eventually(fn -> held(short, :b) == nil end)
  end

  test "a child started anew is not started twice, whatever crashes meanwhile" do
    {start, starts} = waits_at_start(1)

    sup = start_supervised!(DynamicSupervisor)
    %{start: mfa} = worker(:a, start: start)
    request = {mfa, :permanent, 5_000, :worker, [OOM.Test.Worker]}
    gone = gone()
    # As the process that acts for such a supervisor does.
    options = [backoff: [initial_ms: 1, max_ms: 1], return: {:start_child, request}]
    :ok = Holds.Down.hold(sup, gone, [{gone, true}], gone, options)
    assert_receive {:starting, ^sup}, 10_000
    crash(Holds)
    crash(OOM.Accountant)
    tick()
    assert %{state: :releasing} = held(sup, gone)
    send(sup, :go)
    new = started(:a)
    eventually(fn -> kills(sup, new) == 1 end)
    assert held(sup, gone) == nil
    assert :counters.get(starts, 1) == 1
    assert %{active: 1} = DynamicSupervisor.count_children(sup)
    # The child's past is known, too.
    assert %{state: :running} = OOM.Holds.Store.lookup({sup, new})
  end

  test "while Holds crashes again and again all come back, each once" do
    ids = for n <- 1..20, do: :"w#{n}"
    {sup, workers} = start(:short, ids)
    for {_, worker} <- workers, do: kill(worker)

    for id <- ids do
      started(id)
      if id in [:w3, :w7, :w12], do: crash(Holds)
    end

    eventually(fn -> Enum.all?(ids, &(held(sup, &1) == nil)) end)
    assert %{active: 20} = Supervisor.count_children(sup)
    refute_received {:started, _, _}
  end

  describe "a sibling's crash" do
    for {strategy, crashes, held} <- [{:rest_for_one, :a, :b}, {:one_for_all, :a, :c}] do
      @tag strategy: strategy, crashes: crashes, held: held
      test "does not start held children (#{strategy})", context do
        %{strategy: strategy, crashes: crashes, held: held} = context
        {sup, workers} = start(:long, [:a, :b, :c], strategy: strategy, max_restarts: 10)
        hold(sup, held, workers[held])
        # Under one_for_all the test asks for one of the held children.
        if strategy == :one_for_all, do: {:ok, _} = Supervisor.restart_child(sup, crashes)
        before = running(sup, crashes)
        GenServer.cast(before, {:stop, :crash})
        eventually(fn -> running(sup, crashes) not in [before, :undefined, :restarting] end)
        assert running(sup) == [crashes]
        assert %{state: :held} = held(sup, held)
        assert :ok = OOM.release({sup, held})
        assert [:a, :b, :c] = running(sup)
      end
    end
  end

  test "temporary siblings ended by the strategy are forgotten" do
    temporary = worker(:t, restart: :temporary)
    {sup, _} = start(:long, [:a], strategy: :one_for_all, max_restarts: 100)
    known = fn -> sup |> Process.info(:dictionary) |> elem(1) |> length() end
    before = known.()

    for _ <- 1..5 do
      {:ok, t} = Supervisor.start_child(sup, temporary)
      ref = Process.monitor(t)
      GenServer.cast(running(sup, :a), {:stop, :crash})
      assert_receive {:DOWN, ^ref, _, _, :shutdown}, 5_000
      Supervisor.count_children(sup)
    end

    assert known.() == before
  end

  describe "under pressure a :killed child" do
    setup do
      # Within a second after a kill of an earlier test no child would be started.
      eventually(fn -> not RecentKills.any?(0, System.monotonic_time(:millisecond)) end)
      Level.put(:critical)
      on_exit(fn -> Level.put(:normal) end)
    end

    test "is a crash like any other, unless known to be a victim" do
      {sup, %{a: a}} = start(:long, [:a], max_restarts: 1)
      Process.exit(a, :kill)
      assert started(:a) != a
      assert held(sup, :a) == nil

      {sup, %{b: b}} = start(:long, [:b])
      Victims.mark(b, System.monotonic_time(:millisecond), 7)
      Process.exit(b, :kill)
      assert %{bytes: 7} = eventually(fn -> held(sup, :b) end)
    end

    test "while it starts, too" do
      Process.flag(:trap_exit, true)
      children = [worker(:a, init: &Process.exit(&1, :kill))]
      options = [strategy: :one_for_one]

      # Any process marked since the start began may be the child, whose pid nobody knows. A process of an
      # earlier test may be marked meanwhile, and the start then counts as a victim's.
      eventually(fn ->
        began_ms = System.monotonic_time(:millisecond)

        case OOM.Supervisor.start_link(children, options) do
          {:error, {:shutdown, _}} ->
            true

          {:ok, sup} ->
            assert Victims.since?(began_ms)
            Supervisor.stop(sup)
            false
        end
      end)

      # A child killed by the guard meanwhile is held, and its supervisor starts.
      test = self()

      dies = fn pid ->
        send(test, :dies)
        Victims.mark(pid, System.monotonic_time(:millisecond), 7)
        Process.exit(pid, :kill)
      end

      {:ok, sup} = OOM.Supervisor.start_link([worker(:a, init: dies)], options)
      assert_receive :dies
      assert %{kills: 1} = held(sup, :a)
      Supervisor.stop(sup)
    end
  end

  describe "a protected child" do
    test "is restarted at once, whatever the exit reason" do
      child = OOM.child_spec(worker(:a), priority: :protected, max_heap_size: 1_000_000_000)
      {sup, %{a: a}} = start(:long, [child], max_restarts: 10)

      # No verdict is waited for: the supervisor has restarted the child before the question.
      for reason <- [:kill, {:shutdown, :memory_pressure}], reduce: a do
        pid ->
          ref = Process.monitor(pid)
          Process.exit(pid, reason)
          assert_receive {:DOWN, ^ref, _, _, _}, 10_000
          assert verdicts(sup) == []
          new = started(:a)
          assert held(sup, :a) == nil
          new
      end
    end

    test "is so by its own word" do
      protected = fn state ->
        :ok = OOM.set_priority(:protected)
        state
      end

      {sup, %{a: a}} = start(:long, [worker(:a, init: protected)], max_restarts: 10)
      # The child's row may be gone when the supervisor hears of the exit.
      :sys.suspend(sup)
      ref = Process.monitor(a)
      Process.exit(a, {:shutdown, :memory_pressure})
      assert_receive {:DOWN, ^ref, _, _, _}, 10_000
      eventually(fn -> OOM.Workers.lookup(a) == nil end)
      :sys.resume(sup)
      assert started(:a) != a
      assert held(sup, :a) == nil
    end
  end

  test "no verdict is waited for where there is no cap the child could have met" do
    child = OOM.child_spec(worker(:a), max_heap_size: :infinity)
    {sup, %{a: a}} = start(:long, [child], max_restarts: 10)
    Process.exit(a, :kill)
    new = started(:a)
    assert verdicts(sup) == []
    # A child that sets a cap itself may have met the cap.
    :sys.replace_state(new, fn state ->
      :ok = OOM.set_priority(:low, max_heap_size: 1_000_000)
      state
    end)

    :sys.suspend(sup)
    ref = Process.monitor(new)
    catch_exit(:sys.replace_state(new, fn _ -> Enum.to_list(1..1_000_000) end))
    assert_receive {:DOWN, ^ref, _, _, :killed}, 10_000
    # The row is gone, too, but the cap the child has set is known all the same.
    eventually(fn -> OOM.Workers.lookup(new) == nil and Victims.marked?(new) end)
    :sys.resume(sup)
    assert %{bytes: bytes} = eventually(fn -> held(sup, :a) end)
    assert bytes > 1_000_000
  end

  test "the child's own later word counts" do
    child = OOM.child_spec(worker(:a), priority: :protected)
    {sup, %{a: a}} = start(:long, [child], max_restarts: 1)
    :ok = OOM.set_priority(a, :low)
    assert %{kills: 1} = hold(sup, :a, a)
  end

  test "the tables know nothing of finished tests" do
    # The supervisor of the last test may be ending just now: count and rows go one after the other.
    rows = fn -> Enum.filter(OOM.Holds.Store.all(), &OOM.Hold.held?/1) end
    assert eventually(fn -> Holds.count() == 0 and rows.() == [] end)
    assert %OOM.Config{} = Tables.config()
  end

  # Kills the process, and waits until the next has done its init.
  defp crash(name) do
    before = Process.whereis(name)
    ref = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}
    eventually(fn -> Process.whereis(name) not in [nil, before] end)
    :sys.get_state(name)
  end

  # The guard kills until it rests, and no child comes back meanwhile.
  defp guard_kills do
    on_exit(&guard_rests/0)
    RecentKills.note(250, System.monotonic_time(:millisecond) + 3_600_000)
  end

  defp guard_rests, do: RecentKills.note(250, System.monotonic_time(:millisecond) - 3_600_000)

  # Returns the children of the supervisor that wait for a verdict.
  defp verdicts(sup) do
    {:dictionary, dictionary} = Process.info(sup, :dictionary)

    case List.keyfind(dictionary, OOM.Supervisor.Verdict, 0) do
      {_, verdicts} -> verdicts
      nil -> []
    end
  end

  # Returns after one more look through the holds.
  defp tick do
    send(Holds, :tick)
    :sys.get_state(Holds)
  end

  defp running(sup, id) do
    {^id, pid, _, _} = List.keyfind(Supervisor.which_children(sup), id, 0)
    pid
  end

  # Returns the pid of an ended process, as of a killed child.
  defp gone do
    {pid, ref} = spawn_monitor(fn -> :ok end)
    receive(do: ({:DOWN, ^ref, _, _, _} -> pid))
  end
end
