defmodule OOM.Real.LimitsTest do
  @moduledoc false
  # Moving limits, absurd limits, and limits nothing can keep.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Healthy, LimitedVM, Patience, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576

  defp await_level(vm, levels) do
    args = [[:level], levels]
    assert LimitedVM.call(vm, Workload, :await, args) in levels
  end

  test "a limit set lower while running raises the level, and higher again brings it back" do
    vm = LimitedVM.start!(1024 * @mib, [])
    used = LimitedVM.call(vm, OOM, :snapshot, []).working_set_bytes
    assert LimitedVM.call(vm, OOM, :level, []) == :normal

    # Less is left than twice the floor, which is a sixteenth of a limit this small.
    Cgroup.limit!(vm.cgroup, used + 3 * @mib)
    await_level(vm, [:elevated, :high, :critical])
    assert LimitedVM.call(vm, OOM, :snapshot, []).limit_bytes < 2 * used

    Cgroup.limit!(vm.cgroup, 1024 * @mib)
    await_level(vm, [:normal])
  end

  test "the snapshot names the limit that binds, its file and its cgroup" do
    vm = LimitedVM.start!(512 * @mib, [])
    snapshot = LimitedVM.call(vm, OOM, :snapshot, [])

    assert snapshot.source == %{1 => :cgroup_v1, 2 => :cgroup_v2}[vm.cgroup.version]
    assert snapshot.limit_bytes == 512 * @mib
    assert Path.dirname(snapshot.file) == vm.cgroup.path
    assert Path.basename(snapshot.cgroup) == Path.basename(vm.cgroup.path)
    assert snapshot.headroom_bytes == snapshot.limit_bytes - snapshot.working_set_bytes
    assert snapshot.working_set_bytes <= snapshot.usage_bytes
  end

  test "a configured limit tighter than the cgroup binds" do
    vm = LimitedVM.start!(1024 * @mib, limit: 400 * @mib)

    assert %{source: :configured, limit_bytes: 419_430_400, file: nil} =
             LimitedVM.call(vm, OOM, :snapshot, [])
  end

  test "under a limit filled by the VM alone, idle workers are left alone, and the log says so" do
    vm = LimitedVM.start!(1024 * @mib, nil)

    # Some MiB more than the VM uses, taken by a protected worker: the killable workers hold
    # nothing to give.
    {:ok, _} = LimitedVM.call(vm, :application, :ensure_all_started, [:oom])
    used = LimitedVM.call(vm, OOM, :snapshot, []).rss_bytes
    :ok = LimitedVM.call(vm, :application, :stop, [:oom])

    for {key, value} <- [limit: used + 24 * @mib, on_exhausted: {Workload, :exhausted, []}],
        do: :ok = LimitedVM.call(vm, :application, :set_env, [:oom, key, value])

    {:ok, _} = LimitedVM.call(vm, :application, :ensure_all_started, [:oom])
    count = Patience.share(200)
    workers = for i <- 1..count, do: {{:low, i}, [priority: :low]}
    supervisor = LimitedVM.call(vm, Workload, :start, [workers, []])

    protected = protected(vm)
    # A trim gives a part of the filling back.
    events = LimitedVM.call(vm, Workload, :fill_until_exhausted, [protected, @mib])
    assert Enum.filter(events, &match?({:ended, _, _, _}, &1)) == []
    assert length(LimitedVM.call(vm, Workload, :pids, [supervisor, :low])) == count
  end

  test "growth in a protected worker kills no protected one, and on_exhausted runs once" do
    vm =
      LimitedVM.start!(512 * @mib,
        on_exhausted: {Workload, :exhausted, []},
        max_heap_size: :infinity
      )

    supervisor = LimitedVM.call(vm, Workload, :start, [[{{:low, 1}, [priority: :low]}], []])

    # Next to nothing is left.
    protected = protected(vm)
    before = LimitedVM.call(vm, Healthy, :pids, [protected])
    :ok = LimitedVM.call(vm, Healthy, :fill_up, [protected, 8 * @mib, :fast])
    args = [supervisor, :none, :binary, 1, 20, :exhausted]
    assert {:done, _} = LimitedVM.call(vm, Workload, :grow_until, args)
    assert LimitedVM.call(vm, Healthy, :pids, [protected]) == before

    # The level stays critical, is sampled again (at rest four times a second), and is not
    # reported again.
    samples = LimitedVM.call(vm, OOM, :snapshot, []).samples
    LimitedVM.call(vm, Workload, :await_samples, [samples + 12])
    events = LimitedVM.call(vm, Workload, :events, [])
    assert [_] = Enum.filter(events, &match?({:exhausted, _, _}, &1))
    assert LimitedVM.alive?(vm)
  end

  test "on_exhausted: :stop ends the VM in order, before the kernel kills the VM" do
    vm = LimitedVM.start!(512 * @mib, on_exhausted: :stop, max_heap_size: :infinity)
    ref = Process.monitor(vm.peer)
    protected = protected(vm)
    :ok = LimitedVM.call(vm, Healthy, :fill_up, [protected, 8 * @mib, :fast])
    assert_receive {:DOWN, ^ref, :process, _, _}, Patience.times(30_000)
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  test "with kill: false nobody is killed" do
    vm = LimitedVM.start!(512 * @mib, kill: false)
    workers = [{:low, {:binaries, 0}, priority: :low}]
    supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
    before = LimitedVM.call(vm, Healthy, :pids, [supervisor])
    # The worker grows until next to nothing is left.
    :ok = LimitedVM.call(vm, Healthy, :fill_up, [supervisor, 8 * @mib, :fast])
    await_level(vm, [:critical])
    samples = LimitedVM.call(vm, OOM, :snapshot, []).samples
    LimitedVM.call(vm, Workload, :await_samples, [samples + 12])
    assert LimitedVM.call(vm, Healthy, :pids, [supervisor]) == before
  end

  defp protected(vm) do
    workers = [{Protected, {:binaries, 0}, priority: :protected}]
    LimitedVM.call(vm, Healthy, :start, [workers])
  end
end
