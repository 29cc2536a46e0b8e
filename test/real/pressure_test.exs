defmodule OOM.Real.PressureTest do
  @moduledoc false
  # The main job on the real thing: a separate VM in a real cgroup, real growth, real kills.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Healthy, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 180_000

  @mib 1_048_576
  @limit 256 * @mib
  # Back as soon as the pressure is over, so the tests are short.
  @config [backoff: [initial_ms: 50, max_ms: 400]]

  defp workers(group, count, options), do: for(i <- 1..count, do: {{group, i}, options})

  defp start(config \\ @config, workers) do
    vm = LimitedVM.start!(@limit, config)
    {vm, LimitedVM.call(vm, Workload, :start, [workers, []])}
  end

  defp grow(vm, supervisor, group, kind, done) do
    args = [supervisor, group, kind, 100_000, 20, done]
    LimitedVM.call(vm, Workload, :grow_until, args)
  end

  defp ended(events), do: for({:ended, {group, _}, reason, _} <- events, do: {group, reason})

  describe "a leak in 100 workers under 256 MiB" do
    test "kills the VM without a guard" do
      vm = LimitedVM.start!(@limit, nil)
      ref = Process.monitor(vm.peer)
      # Four times the limit; the call ends with the VM.
      catch_exit(LimitedVM.call(vm, Workload, :unguarded, [4 * @limit]))
      assert_receive {:DOWN, ^ref, :process, _, _}, 60_000
      assert Cgroup.oom_kills(vm.cgroup) == 1
    end

    for kind <- [:list, :binary] do
      test "ends workers of the lowest priority only, and the VM lives (#{kind})" do
        {vm, supervisor} =
          start(
            workers(:low, 100, priority: :low) ++
              workers(:normal, 10, []) ++
              workers(:high, 5, priority: :high) ++
              workers(:protected, 1, priority: :protected)
          )

        protected = LimitedVM.call(vm, Workload, :pids, [supervisor, :protected])

        for pid <- protected,
            do: LimitedVM.call(vm, GenServer, :cast, [pid, {:grow, :list, 1_000}])

        {:done, events} = grow(vm, supervisor, :low, unquote(kind), {:ended, :low, 30})

        assert Enum.all?(ended(events), &(&1 == {:low, {:shutdown, :memory_pressure}}))
        assert LimitedVM.call(vm, Workload, :pids, [supervisor, :protected]) == protected

        assert [1] =
                 for(pid <- protected, do: LimitedVM.call(vm, GenServer, :call, [pid, :state]))

        assert LimitedVM.alive?(vm)
        assert Cgroup.oom_kills(vm.cgroup) == 0
      end
    end

    test "finds the owner of a leaking ETS table, and ends nobody else" do
      {vm, supervisor} = start(workers(:normal, 30, []) ++ workers(:low, 2, priority: :low))
      # The healthy workers hold something too, and more than the heap of the leaking worker.
      for pid <- LimitedVM.call(vm, Workload, :pids, [supervisor, :any]),
          do: LimitedVM.call(vm, GenServer, :cast, [pid, {:grow, :list, 1_000_000}])

      {:done, events} = grow(vm, supervisor, :low, :table, {:ended, :low, 2})
      assert events |> ended() |> Enum.uniq() == [{:low, {:shutdown, :memory_pressure}}]
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end

    test "ends no :normal worker while a :low worker holds anything" do
      # Not back within the test: a living worker was not killed.
      config = [backoff: [initial_ms: 600_000, max_ms: 600_000]]

      {vm, supervisor} =
        start(config, workers(:low, 40, priority: :low) ++ workers(:normal, 40, []))

      assert {:done, events} = grow(vm, supervisor, :any, :binary, {:ended, :normal, 5})

      # Whenever a :normal worker ended, no :low worker with equal growth was alive, except a few
      # of the forty: those had been suspended so long that they had next to no growth.
      alive = for {:alive, names} <- events, {:low, _} = name <- names, uniq: true, do: name
      assert length(alive) <= 4
    end
  end

  describe "a slow leak" do
    # A VM nearly full of protected memory, and calm again.
    defp nearly_full(vm) do
      protected = {Protected, {:binaries, 0}, priority: :protected}
      supervisor = LimitedVM.call(vm, Healthy, :start, [[protected]])
      :ok = LimitedVM.call(vm, Healthy, :fill_up, [supervisor, 40 * @mib, :fast])
      :normal = LimitedVM.call(vm, Workload, :await, [[:level], [:normal]])
    end

    defp slow_leak(vm, class, every_ms) do
      nearly_full(vm)
      workers = workers(class, 1, priority: class)
      supervisor = LimitedVM.call(vm, Workload, :start, [workers, []])
      args = [supervisor, class, :binary, 100_000, every_ms, {:ended, class, 1}]
      LimitedVM.call(vm, Workload, :grow_until, args)
    end

    # Each in a separate VM, side by side: the VMs sleep nearly all the time.
    for {rate, every_ms} <- ["2.5": 40, "5": 20, "10": 10] do
      test "of #{rate} MB/s ends the leaking worker, :low or :normal, and not the VM" do
        vms = for class <- [:low, :normal], do: {class, LimitedVM.start!(@limit, @config)}

        leaks =
          for {class, vm} <- vms,
              do: {class, vm, Task.async(fn -> slow_leak(vm, class, unquote(every_ms)) end)}

        for {class, vm, leak} <- leaks do
          assert {:done, events} = Task.await(leak, :infinity)
          assert [{^class, {:shutdown, :memory_pressure}}] = ended(events)
          assert Cgroup.oom_kills(vm.cgroup) == 0
        end
      end
    end
  end

  describe "when the pressure is over" do
    test "every held worker is back, once, one after the other, and the level was told once per change" do
      # max_restarts: 0, so a single counted restart would end the supervisor.
      {vm, supervisor} = start(workers(:low, 60, priority: :low))
      {:done, _} = grow(vm, supervisor, :low, :binary, {:ended, :low, 40})
      # The guard may act below :critical, so the workers grow on until the level is told.
      {:done, _} = grow(vm, supervisor, :low, :binary, {:level, :critical})
      {:done, events} = LimitedVM.call(vm, Workload, :settle, [supervisor])

      assert LimitedVM.call(vm, Process, :alive?, [supervisor])
      assert length(LimitedVM.call(vm, Workload, :pids, [supervisor, :low])) == 60
      back_once(events)
      back_one_by_one(events)
      told_once(events)
    end

    # At most one process for each child at any time.
    defp back_once(events) do
      for i <- 1..60 do
        life =
          for event <- events,
              elem(event, 0) in [:started, :ended],
              elem(event, 1) == {:low, i},
              do: elem(event, 0)

        assert life == Enum.take(Stream.cycle([:started, :ended]), length(life))
        assert List.last(life) == :started
      end
    end

    defp back_one_by_one(events) do
      returns = for {:started, _, at} <- Enum.drop(events, 60), do: at
      assert length(returns) >= 40
      # The watcher has seen the effect of a return before the next comes.
      for [one, next] <- Enum.chunk_every(returns, 2, 1, :discard), do: assert(next - one >= 10)

      # At every reported level, there is room above the floor, and nothing grows.
      rooms = for {:room, snapshot} <- events, do: snapshot
      assert length(rooms) == length(returns)

      for snapshot <- rooms do
        room = snapshot.headroom_bytes + (snapshot.slack_bytes || 0)
        assert room > snapshot.critical_headroom_bytes
        assert (snapshot.growth_bytes_per_s || 0) * 5 < room - snapshot.critical_headroom_bytes
      end
    end

    defp told_once(events) do
      levels = [
        :normal | for({:level, level, snapshot, _} <- events, snapshot.level == level, do: level)
      ]

      assert :critical in levels
      for [one, next] <- Enum.chunk_every(levels, 2, 1, :discard), do: assert(one != next)
      assert List.last(levels) == :normal
    end
  end

  describe "a victim" do
    test "is seen by monitors and links to leave with {:shutdown, :memory_pressure}" do
      {vm, supervisor} = start(workers(:low, 20, priority: :low))
      :ok = LimitedVM.call(vm, Workload, :link_all, [supervisor, :low])
      {:done, events} = grow(vm, supervisor, :low, :binary, {:ended, :low, 10})
      linked = LimitedVM.call(vm, Workload, :link_reasons, [10])

      assert Enum.uniq(linked) == [{:shutdown, :memory_pressure}]
      assert events |> ended() |> Enum.uniq() == [{:low, {:shutdown, :memory_pressure}}]
    end

    test "that traps exits and stays gets :kill, and is held and returned all the same" do
      {vm, supervisor} = start([grace_ms: 20] ++ @config, workers(:low, 20, stubborn: true))
      {:done, events} = grow(vm, supervisor, :low, :binary, {:ended, :low, 5})
      assert events |> ended() |> Enum.uniq() == [{:low, :killed}]

      {:done, _} = LimitedVM.call(vm, Workload, :settle, [supervisor])
      assert LimitedVM.call(vm, Process, :alive?, [supervisor])
    end

    # By default the cap is the limit, and a list asks for more with less than half of the limit
    # in use. Two lists at once are not promised: together they may be the limit.
    test "whose list runs away, without a cap of its own, is ended before the VM is" do
      {vm, supervisor} = start(workers(:low, 1, priority: :low))
      LimitedVM.call(vm, Workload, :run_away, [supervisor, :low, 2 * @limit])
      {:done, events} = grow(vm, supervisor, :none, :binary, {:ended, :low, 1})
      assert [{:low, reason}] = ended(events)
      assert reason in [:killed, {:shutdown, :memory_pressure}]
      {:done, _} = LimitedVM.call(vm, Workload, :settle, [supervisor])
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end

    test "of its max_heap_size is held like any victim" do
      # A cap met long before the node has anything to fear.
      cap = [priority: :low, max_heap_size: 16 * @mib]
      {vm, supervisor} = start(workers(:low, 2, cap))
      LimitedVM.call(vm, Workload, :run_away, [supervisor, :low, 2 * @limit])
      {:done, events} = grow(vm, supervisor, :none, :binary, {:ended, :low, 2})

      assert events |> ended() |> Enum.uniq() == [{:low, :killed}]
      {:done, _} = LimitedVM.call(vm, Workload, :settle, [supervisor])
      assert LimitedVM.call(vm, Process, :alive?, [supervisor])
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
