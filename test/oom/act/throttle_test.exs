defmodule OOM.ThrottleTest do
  @moduledoc false
  # The throttle on real processes, with a limit that is made up: usage is what the test, or a worker of it,
  # feeds the watcher with. What is asked is whether somebody stands still or runs, never for how long.
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Evidence, Limits, Native, Throttle, Units, Workers}

  @moduletag :tmp_dir
  @mib 1_048_576
  @limit 512 * @mib
  # All of it is below the floor, so that whatever grows is not calm, and there is much to grow by.
  @watermarks {0.01, 0.02, 0.03}
  @used div(@limit, 10)

  setup %{tmp_dir: tmp_dir} = context do
    {:ok, watcher} =
      Native.watcher_start(self(), %{
        limit_bytes: context[:limit_bytes] || @limit,
        root: tmp_dir,
        watermarks: context[:watermarks] || @watermarks,
        tte_ms: nil,
        # The thread samples what it is fed with at once.
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

    test "it stands still, and runs, and stands still again", %{
      grower: grower,
      throttle: throttle
    } do
      for _ <- 1..3 do
        eventually(fn -> suspended?(grower.pid) end)
        ran = runs(grower)
        # However long it takes: it is let run, and never for good.
        eventually(fn -> runs(grower) > ran end)
      end

      eventually(fn -> suspended?(grower.pid) end)
      assert Process.alive?(throttle.pid)
    end

    test "one that waits for messages is let go, and answers", %{grower: grower} do
      idle = worker(500)
      eventually(fn -> let_go?(idle, grower.pid) end)
      assert Agent.get(idle, & &1) == nil
    end

    test "one that works and does not grow is let go", %{grower: grower} do
      busy = spinner(500)
      eventually(fn -> let_go?(busy, grower.pid) end)
    end

    test "of every class those that may be killed stand still, and nobody else", context do
      others = for rank <- [0, 250, 750, 1000], do: grower(context.watcher, rank)
      protected = spinner(:protected)
      # An infrastructure process is no worker.
      bystander = spin(fn -> :ok end)
      watch = seen_suspended([protected, bystander, self(), Process.whereis(:init)])
      for %{pid: pid} <- others, do: eventually(fn -> suspended?(pid) end)
      for _ <- 1..3, do: let_turn(context.grower)
      assert watch.() == []
    end

    test "a supervisor never stands still, whatever its children do", %{grower: grower} do
      supervisor = start_supervised!({DynamicSupervisor, strategy: :one_for_one}, id: :dynamic)
      {:ok, child} = DynamicSupervisor.start_child(supervisor, {Agent, fn -> nil end})
      :ok = Workers.attach(child, 500, supervisor, nil, [])
      watch = seen_suspended([supervisor])
      for _ <- 1..3, do: let_turn(grower)
      assert watch.() == []
    end

    test "one that becomes protected is let go", %{grower: grower} = context do
      other = grower(context.watcher)
      eventually(fn -> suspended?(other.pid) end)
      :ok = Workers.declare(other.pid, :protected)
      eventually(fn -> let_go?(other.pid, grower.pid) end)
    end

    test "a victim goes on, so that it can act on its exit signal", context do
      victim = grower(context.watcher, 500, trap_exit: true)
      eventually(fn -> suspended?(victim.pid) end)
      # The guard has taken it out of the plan.
      Workers.take(victim.pid)
      ref = Process.monitor(victim.pid)
      Process.exit(victim.pid, {:shutdown, :memory_pressure})
      Throttle.release(context.throttle, [victim.pid])
      assert_receive {:DOWN, ^ref, _, _, :acted}
      assert Process.alive?(context.throttle.pid)
    end

    test "one that is bound to one that may be killed goes on to run as others do", context do
      bound = grower(context.watcher, 250)
      :ok = Units.bind(bound.pid, 750)
      assert Workers.rank(bound.pid) == 750
      eventually(fn -> suspended?(bound.pid) and Evidence.grown_bytes(row(bound)) >= 65_536 end)
      for _ <- 1..3, do: let_turn(bound)
    end

    test "one that stands still dies of a kill", %{grower: grower, throttle: throttle} do
      ref = Process.monitor(grower.pid)
      eventually(fn -> suspended?(grower.pid) end)
      Process.exit(grower.pid, :kill)
      assert_receive {:DOWN, ^ref, _, _, :killed}
      # Nor does the throttle fail for it: nothing grows any more, and it ends.
      assert_ends(throttle, :normal)
    end

    test "all go on when it is killed", %{grower: grower, throttle: throttle} do
      eventually(fn -> suspended?(grower.pid) end)
      Process.exit(throttle.pid, :kill)
      assert_ends(throttle, :killed)
      ran = runs(grower)
      eventually(fn -> runs(grower) > ran end)
      refute suspended?(grower.pid)
    end
  end

  # A protected one would end with it, so that nothing but this keeps it from taking the node along.
  test "one that grows and cannot be ended stands at the floor, for longer than a turn",
       %{watcher: watcher} do
    bound = grower(watcher, 250)
    :ok = Units.bind(bound.pid, :protected)
    assert Workers.rank(bound.pid) == :protected
    throttle = start(watcher)
    # Whoever gets his turn runs each 50 ms.
    eventually(fn -> stands_for?(bound, 200) end)
    assert stands_for?(bound, 300)
    assert suspended?(bound.pid)
    assert Process.alive?(throttle.pid)
    # Nobody else can let it go.
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

  test "it ends by itself when nothing grows, and nobody stands still", %{watcher: watcher} do
    workers = [worker(250), worker(500), spinner(500)]
    throttle = start(watcher)
    assert_ends(throttle, :normal)
    refute Enum.any?(workers, &suspended?/1)
  end

  # What it was seen to grow by has long faded, for it waits; and it would take its next step at once.
  @tag watermarks: {0.5, 0.6, 0.9}
  test "one that sleeps between its steps and cannot be ended stands at the floor, until there is room",
       %{watcher: {watcher_ref, used} = watcher} do
    floor = div(@limit, 10)

    use = fn bytes ->
      :atomics.put(used, 1, bytes)
      feed(watcher_ref, bytes)
    end

    use.(@limit - floor)
    bound = sleeper(watcher, 250)
    :ok = Units.bind(bound.pid, :protected)
    # Between two steps nothing else shows that memory grows.
    eventually(fn -> Native.watcher_report(watcher_ref).drift_bytes_per_s > 1_000_000 end)

    eventually(fn ->
      throttle = throttle(watcher)
      stands_for?(bound, 4 * Limits.grown_ms()) and Process.alive?(throttle.pid)
    end)

    assert suspended?(bound.pid)
    # A little above the floor is no room: its next step would be below it again.
    use.(@limit - floor - div(floor, 16))
    assert stands_for?(bound, Limits.grown_ms())
    ran = runs(bound)
    :atomics.put(used, 1, div(@limit, 2))
    Native.watcher_feed(watcher_ref, div(@limit, 2))
    eventually(fn -> runs(bound) > ran end)
  end

  test "one that grows slowly and cannot be ended stands at the floor beside one that grows fast",
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

  # By nobody who is known, so slowly that one stand does not show it, or as fast as can be; and for longer
  # than the test waits.
  for rate <- [20_000_000, 2_000_000_000] do
    @tag limit_bytes: 128 * 1_024 * @mib, rate: rate
    test "it ends where memory grows by #{rate} bytes/s while all stand: that is nobody's it could slow",
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

      # Until then it shows nothing that would keep a throttle from ending.
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

  # The guard begins again where one has ended and memory grows: a worker that gets no turn on a busy machine
  # takes no steps for a while.
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

  # It runs while the other one stands still: for a while, and not because of the order of a stand.
  defp let_go?(pid, other) do
    Enum.all?(1..3, fn _ ->
      Process.sleep(1)
      suspended?(other) and not suspended?(pid)
    end)
  end

  # The grower has run, and stands still again.
  defp let_turn(grower) do
    ran = runs(grower)
    eventually(fn -> runs(grower) > ran end)
    eventually(fn -> suspended?(grower.pid) end)
  end

  # Looks at them until it is asked whom it has seen standing still.
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

  # Grows whenever it runs, slowly, and tells the watcher of it.
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

  # Takes 128 KiB whenever it has slept for 20 ms, and has done so for a while.
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
