defmodule OOM.Real.StepsTest do
  @moduledoc false
  # Growth in steps with sleeps between, and growth of no worker: the workers harmed and spared.
  # In real cgroups, with the defaults.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Patience, Stepper}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: Patience.times(120_000)

  @mib 1_048_576
  @limit 512 * @mib

  for {count, period_ms} <- [{1, 20}, {4, 65}, {20, 20}, {20, 500}] do
    test "#{count} tasks of a protected one's stream that step each #{period_ms} ms stand at the floor" do
      vm = LimitedVM.start!(@limit, [])
      :ok = call(vm, :start_bound, [unquote(count), unquote(period_ms), 370 * @mib])
      reader = LimitedVM.call(vm, Process, :whereis, [Stepper.Reader])
      tasks = call(vm, :await_standing, [])
      assert length(tasks) == unquote(count)
      # At the floor, and not before: at most by the growth of all tasks in a step or two.
      highest = (40 + 2 * unquote(count)) * @mib
      assert LimitedVM.call(vm, OOM, :snapshot, []).headroom_bytes in (8 * @mib)..highest
      # The tasks go on as soon as there is room.
      :ok = call(vm, :drop_ballast, [])
      :ok = call(vm, :await_running, [tasks])
      assert LimitedVM.call(vm, Process, :whereis, [Stepper.Reader]) == reader
      assert LimitedVM.call(vm, :ets, :tab2list, [OOM.Victims]) == []
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end

  for {count, period_ms} <- [{1, 65}, {4, 200}, {20, 500}] do
    test "of #{count} workers that step each #{period_ms} ms some are ended, and nobody else" do
      vm = LimitedVM.start!(@limit, [])
      idle = call(vm, :start_free, [unquote(count), unquote(period_ms), 380 * @mib])
      :ok = call(vm, :await_kill, [])
      victims = for {pid, _, _} <- LimitedVM.call(vm, :ets, :tab2list, [OOM.Victims]), do: pid
      assert victims -- idle == victims
      assert Enum.all?(idle, &LimitedVM.call(vm, Process, :alive?, [&1]))
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end

  # The gap between two calls of the throttle on a machine of two busy cores.
  @longest_ms 60

  for {kind, mib_per_s} <- [table: 5, table: 20, table: 50, program: 20, program: 50] do
    test "a #{kind} without owner, growing by #{mib_per_s} MiB a second, kills and suspends nobody" do
      vm = LimitedVM.start!(@limit, [])
      idle = call(vm, :start_idle, [50, 405 * @mib])
      stood = call(vm, :fill, [unquote(kind), unquote(mib_per_s), 12 * @mib, idle])
      assert Enum.max(stood, fn -> 0 end) <= Patience.times(@longest_ms)
      assert LimitedVM.call(vm, :ets, :tab2list, [OOM.Victims]) == []
      assert Enum.all?(idle, &LimitedVM.call(vm, Process, :alive?, [&1]))
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end

  test "a child that loads in its init until nothing is left is ended and held, and nobody else" do
    vm = LimitedVM.start!(@limit, backoff: [initial_ms: 1_000_000_000, max_ms: 1_000_000_000])
    idle = call(vm, :start_loader, [])
    assert length(idle) == 20
    assert [%{id: :loader, kills: 1}] = LimitedVM.call(vm, OOM, :held, [])
    assert [_one] = LimitedVM.call(vm, :ets, :tab2list, [OOM.Victims])
    assert Enum.all?(idle, &LimitedVM.call(vm, Process, :alive?, [&1]))
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  defp call(vm, function, args), do: LimitedVM.call(vm, Stepper, function, args)
end
