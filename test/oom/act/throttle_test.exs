defmodule OOM.ThrottleTest do
  @moduledoc false
  # Runs the throttle on real processes with a made-up limit: the test, or a worker of the test, feeds the
  # watcher with the usage. The tests ask whether a process is suspended or runs, and never set an upper
  # bound on the time.
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Evidence, Limits, Native, Throttle, Units, Workers}
  alias OOM.Limits.Turn
  alias OOM.Throttle.{Run, Sample, State, Suspended, Wait}

  @moduletag :tmp_dir
  @mib 1_048_576
  @limit 512 * @mib
  # All usage is below the floor, so no growth counts as calm, and there is much room to grow.
  @watermarks {0.01, 0.02, 0.03}
  @used div(@limit, 10)

  setup %{tmp_dir: tmp_dir} = context do
    {:ok, watcher} =
      Native.watcher_start(self(), %{
        limit_bytes: context[:limit_bytes] || @limit,
        root: tmp_dir,
        watermarks: context[:watermarks] || @watermarks,
        tte_ms: nil,
        # The thread samples each fed value at once.
        min_interval_ms: 1,
        max_interval_ms: 1
      })

    on_exit(fn -> Native.watcher_stop(watcher) end)
    feed(watcher, @used)
    OOM.Level.next_episode()
    used = :atomics.new(1, [])
    :atomics.put(used, 1, @used)
    %{watcher: {watcher, used}}
  end

  describe "while a worker grows" do
    setup %{watcher: watcher} do
      grower = grower(watcher)
      %{grower: grower, throttle: start(watcher)}
    end

    test "a grower is suspended, runs, and is suspended again", %{
      grower: grower,
      throttle: throttle
    } do
      for _ <- 1..3 do
        eventually(fn -> suspended?(grower.pid) end)
        ran = runs(grower)
        # However long the suspension lasts, the throttle lets the grower run, and never for good.
        eventually(fn -> runs(grower) > ran end)
      end

      eventually(fn -> suspended?(grower.pid) end)
      assert Process.alive?(throttle.pid)
    end

    test "a worker that waits for messages is resumed, and answers", %{grower: grower} do
      idle = worker(500)
      eventually(fn -> let_go?(idle, grower.pid) end)
      assert Agent.get(idle, & &1) == nil
    end

    test "a worker that works without growing is resumed", %{grower: grower} do
      busy = spinner(500)
      eventually(fn -> let_go?(busy, grower.pid) end)
    end

    test "killable workers of every class are suspended, and nobody else", context do
      others = for rank <- [0, 250, 750, 1000], do: grower(context.watcher, rank)
      protected = spinner(:protected)
      # An infrastructure process is no worker.
      bystander = spin(fn -> :ok end)
      watch = seen_suspended([protected, bystander, self(), Process.whereis(:init)])
      for %{pid: pid} <- others, do: eventually(fn -> suspended?(pid) end)
      for _ <- 1..3, do: let_turn(context.grower)
      assert watch.() == []
    end

    test "a supervisor is never suspended, whatever its children do", %{grower: grower} do
      supervisor = start_supervised!({DynamicSupervisor, strategy: :one_for_one}, id: :dynamic)
      {:ok, child} = DynamicSupervisor.start_child(supervisor, {Agent, fn -> nil end})
      :ok = Workers.attach(child, 500, supervisor, nil, [])
      watch = seen_suspended([supervisor])
      for _ <- 1..3, do: let_turn(grower)
      assert watch.() == []
    end

    test "a worker that becomes protected is resumed", %{grower: grower} = context do
      other = grower(context.watcher)
      eventually(fn -> suspended?(other.pid) end)
      :ok = Workers.declare(other.pid, :protected)
      eventually(fn -> let_go?(other.pid, grower.pid) end)
    end

    test "a victim is resumed, so that it can act on its exit signal", context do
      victim = grower(context.watcher, 500, trap_exit: true)
      eventually(fn -> suspended?(victim.pid) end)
      # The guard has taken the victim out of the plan.
      Workers.take(victim.pid)
      ref = Process.monitor(victim.pid)
      Process.exit(victim.pid, {:shutdown, :memory_pressure})
      Throttle.release(context.throttle, [victim.pid])
      assert_receive {:DOWN, ^ref, _, _, :acted}
      assert Process.alive?(context.throttle.pid)
    end

    test "a worker bound to a killable worker gets turns like any worker", context do
      bound = grower(context.watcher, 250)
      :ok = Units.bind(bound.pid, 750)
      assert Workers.rank(bound.pid) == 750
      eventually(fn -> suspended?(bound.pid) and Evidence.grown_bytes(row(bound)) >= 65_536 end)
      for _ <- 1..3, do: let_turn(bound)
    end

    test "a suspended worker dies of a kill", %{grower: grower, throttle: throttle} do
      ref = Process.monitor(grower.pid)
      eventually(fn -> suspended?(grower.pid) end)
      Process.exit(grower.pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, :killed}
      # The throttle does not fail either: nothing grows any more, and the throttle ends.
      assert_ends(throttle, :normal)
    end

    test "all run again when the throttle is killed", %{grower: grower, throttle: throttle} do
      eventually(fn -> suspended?(grower.pid) end)
      Process.exit(throttle.pid, :kill)
      assert_ends(throttle, :killed)
      ran = runs(grower)
      eventually(fn -> runs(grower) > ran end)
      refute suspended?(grower.pid)
    end
  end

  # A protected process would end with this worker, so only the throttle keeps the worker from exhausting the
  # node.
  test "a worker that grows and cannot be ended is suspended at the floor for longer than a turn",
       %{watcher: watcher} do
    bound = grower(watcher, 250)
    :ok = Units.bind(bound.pid, :protected)
    assert Workers.rank(bound.pid) == :protected
    throttle = start(watcher)
    # A worker that gets turns runs each 50 ms.
    eventually(fn -> stands_for?(bound, 200) end)
    assert stands_for?(bound, 300)
    assert suspended?(bound.pid)
    assert Process.alive?(throttle.pid)
    # Only the end of the throttle can resume the worker.
    Process.exit(throttle.pid, :kill)
    ran = runs(bound)
    eventually(fn -> runs(bound) > ran end)
  end

  test "all go on when the guard dies", %{watcher: watcher} do
    test = self()
    grower = grower(watcher)

    guard =
      spawn(fn ->
        send(test, {:throttle, start(watcher)})
        Process.sleep(:infinity)
      end)

    assert_receive {:throttle, throttle}
    ref = Process.monitor(throttle.pid)
    eventually(fn -> suspended?(grower.pid) end)
    Process.exit(guard, :kill)
    assert_receive {:DOWN, ^ref, _, _, :normal}
    ran = runs(grower)
    eventually(fn -> runs(grower) > ran end)
    refute suspended?(grower.pid)
  end

  test "the throttle ends when nothing grows, and nobody is suspended", %{watcher: watcher} do
    workers = [worker(250), worker(500), spinner(500)]
    throttle = start(watcher)
    assert_ends(throttle, :normal)
    refute Enum.any?(workers, &suspended?/1)
  end

  test "workers let go after the longest stretch stand again once they have taken too much",
       %{watcher: {ref, _}} do
    pids = for _ <- 1..3, do: spinner(500)
    still = Enum.reduce(pids, %{}, &Suspended.suspend/2)
    since = Map.new(pids, &{&1, now() - 1_000})
    state = State.due(%{State.new(make_ref(), ref, false) | still: still, since: since})

    {:ok, state} = Wait.until(state, now() + 10, nil)
    refute Enum.any?(pids, &suspended?/1)
    assert Enum.sort(state.loose) == Enum.sort(pids)

    feed(ref, @used + Turn.alert_bytes() + 1)
    {:ok, state} = Wait.until(state, now() + 10, nil)
    assert state.loose == []
    for pid <- pids, do: eventually(fn -> suspended?(pid) end)
  end

  test "a run is over once it has taken its budget", %{watcher: {ref, used}} do
    pid =
      spin(fn ->
        Native.watcher_feed(ref, rem(:atomics.add_get(used, 1, 16 * @mib), @limit))
        Process.sleep(1)
      end)

    still = %{pid => {true, nil}}
    longest = Turn.longest_ms()
    line = %OOM.Lineup{costs: %{pid => {0, longest}}}
    before = Sample.take(ref)

    run = fn ->
      state = State.new(make_ref(), ref, false)
      {:ok, state} = Run.run(%{state | still: still, line: line, ran: {before, [pid], longest}})
      {_, [^pid], ran_ms} = state.ran
      ran_ms
    end

    # On a busy machine the worker may have no turn in time.
    eventually(fn -> run.() < longest end)
  end

  # The growth seen has long faded while the sleeper waits. Once resumed, the sleeper takes its next step at
  # once.
  @tag watermarks: {0.5, 0.6, 0.9}
  test "a sleeping grower that cannot be ended is suspended at the floor until there is room",
       %{watcher: {watcher_ref, used} = watcher} do
    floor = div(@limit, 10)

    use = fn bytes ->
      :atomics.put(used, 1, bytes)
      feed(watcher_ref, bytes)
    end

    use.(@limit - floor)
    bound = sleeper(watcher, 250)
    :ok = Units.bind(bound.pid, :protected)
    # Between two steps only the drift shows growth.
    eventually(fn -> Native.watcher_report(watcher_ref).drift_bytes_per_s > 1_000_000 end)

    eventually(fn ->
      throttle = throttle(watcher)
      stands_for?(bound, 4 * Limits.grown_ms()) and Process.alive?(throttle.pid)
    end)

    assert suspended?(bound.pid)
    # Slightly above the floor is no room: the next step would pass the floor again.
    use.(@limit - floor - div(floor, 16))
    assert stands_for?(bound, Limits.grown_ms())
    ran = runs(bound)
    :atomics.put(used, 1, div(@limit, 2))
    Native.watcher_feed(watcher_ref, div(@limit, 2))
    eventually(fn -> runs(bound) > ran end)
  end

  test "a slow grower that cannot be ended is suspended at the floor beside a fast one",
       %{watcher: watcher} do
    bound = sleeper(watcher, 250)
    :ok = Units.bind(bound.pid, :protected)
    fast = grower(watcher)
    throttle = start(watcher)
    eventually(fn -> stands_for?(bound, 2 * Limits.grown_ms()) end)
    let_turn(fast)
    assert suspended?(bound.pid)
    assert Process.alive?(throttle.pid)
  end

  # No known worker causes the growth. A single stand does not show the slow rate; the fast rate is as fast
  # as can be. Both last longer than the test waits.
  for rate <- [20_000_000, 2_000_000_000] do
    @tag limit_bytes: 128 * 1_024 * @mib, rate: rate
    test "the throttle ends where memory grows by #{rate} bytes/s while all are suspended",
         context do
      %{watcher: {watcher_ref, _} = watcher, limit_bytes: limit, rate: rate} = context
      workers = [worker(250), spinner(500)]
      used = div(limit, 10)
      began = System.monotonic_time(:millisecond)

      spin(fn ->
        grown = div(rate * (System.monotonic_time(:millisecond) - began), 1_000)
        Native.watcher_feed(watcher_ref, min(used + grown, limit))
        Process.sleep(1)
      end)

      # Before the drift shows, nothing keeps a throttle from ending.
      eventually(fn -> Native.watcher_report(watcher_ref).drift_bytes_per_s > 1_000_000 end)
      throttle = start(watcher)
      assert_ends(throttle, {:shutdown, :foreign})
      refute Enum.any?(workers, &suspended?/1)
    end
  end

  test "release/2 without a throttle is nothing" do
    assert Throttle.release(nil, [self()]) == :ok
  end

  defp start({watcher, _used}), do: Throttle.start(watcher)

  # The guard starts a new throttle when the last has ended and memory grows: a worker without a turn on a
  # busy machine takes no steps for a while.
  defp throttle(watcher) do
    throttle = Process.get(:throttle)

    if throttle != nil and Process.alive?(throttle.pid) do
      throttle
    else
      throttle = start(watcher)
      Process.put(:throttle, throttle)
      throttle
    end
  end

  defp assert_ends(%{pid: pid, ref: ref}, reason),
    do: assert_receive({:DOWN, ^ref, _, ^pid, ^reason})

  defp stands_for?(grower, ms) do
    ran = runs(grower)
    Process.sleep(ms)
    runs(grower) == ran
  end

  # The worker runs while `other` is suspended: for a while, and not because of the order of a stand.
  defp let_go?(pid, other) do
    Enum.all?(1..3, fn _ ->
      Process.sleep(1)
      suspended?(other) and not suspended?(pid)
    end)
  end

  # Waits until the grower has run and is suspended again.
  defp let_turn(grower) do
    ran = runs(grower)
    eventually(fn -> runs(grower) > ran end)
    eventually(fn -> suspended?(grower.pid) end)
  end

  # Looks at the processes until asked for the pids seen suspended.
  defp seen_suspended(pids) do
    watcher = Task.async(fn -> look(pids, MapSet.new()) end)

    fn ->
      send(watcher.pid, :tell)
      Task.await(watcher)
    end
  end

  defp look(pids, seen) do
    seen = for pid <- pids, suspended?(pid), into: seen, do: pid

    receive do
      :tell -> MapSet.to_list(seen)
    after
      1 -> look(pids, seen)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp suspended?(pid), do: Process.info(pid, :status) == {:status, :suspended}
  defp runs(%{runs: runs}), do: :counters.get(runs, 1)

  defp row(%{pid: pid}), do: Workers.lookup(pid)

  defp feed(watcher, bytes) do
    Native.watcher_feed(watcher, bytes)
    eventually(fn -> Native.watcher_report(watcher).usage_bytes == bytes end)
  end

  defp worker(rank) do
    pid = idle()
    :ok = Workers.declare(pid, rank)
    pid
  end

  defp spinner(rank) do
    pid = spin(fn -> :ok end)
    :ok = Workers.declare(pid, rank)
    pid
  end

  defp spin(fun) do
    pid = spawn(fn -> spin_on(fun) end)
    ended_with_test(pid)
  end

  defp spin_on(fun) do
    fun.()
    spin_on(fun)
  end

  defp ended_with_test(pid) do
    on_exit(fn -> Process.exit(pid, :kill) end)
    pid
  end

  # Grows slowly whenever it runs, and tells the watcher.
  defp grower(watcher, rank \\ 500, options \\ []) do
    runs = :counters.new(1, [])

    pid =
      spawn(fn ->
        Process.flag(:trap_exit, options[:trap_exit] == true)
        grow(watcher, runs, [])
      end)

    ended_with_test(pid)
    :ok = Workers.declare(pid, rank)
    eventually(fn -> :counters.get(runs, 1) > 0 end)
    %{pid: pid, runs: runs}
  end

  # Takes 128 KiB after each sleep of 20 ms, and has done so for a while.
  defp sleeper({ref, used}, rank) do
    runs = :counters.new(1, [])

    pid =
      spawn(fn ->
        step = fn step, kept ->
          Process.sleep(20)
          :counters.add(runs, 1, 1)
          Native.watcher_feed(ref, min(:atomics.add_get(used, 1, 131_072), @limit))
          step.(step, [:binary.copy(<<1>>, 131_072) | kept])
        end

        step.(step, [])
      end)

    ended_with_test(pid)
    :ok = Workers.declare(pid, rank)
    eventually(fn -> :counters.get(runs, 1) > 2 end)
    %{pid: pid, runs: runs}
  end

  @piece 16_384

  defp grow({ref, used} = watcher, runs, kept) do
    receive do
      {:EXIT, _, _} -> exit(:acted)
    after
      0 -> :ok
    end

    :counters.add(runs, 1, 1)
    Enum.each(1..500, &Integer.to_string/1)
    Native.watcher_feed(ref, min(:atomics.add_get(used, 1, @piece), @limit))
    :erlang.yield()
    grow(watcher, runs, [:binary.copy(<<1>>, @piece) | kept])
  end
end
