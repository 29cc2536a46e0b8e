defmodule OOM.Real.V2Test do
  @moduledoc false
  # The ways cgroup v2 limits a VM, each on the real thing: OOM names the binding limit, and a
  # leak of workers of priority :low ends only them. `script/lab v2` runs the file anywhere, and
  # with --short all tests tagged :short, here and in the rest of the files.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Patience, Swap, Workload}

  @unavailable Cgroup.unavailable() ||
                 if(Cgroup.version() != 2, do: "needs cgroup v2, which script/lab v2 brings")

  @moduletag :cgroup_v2
  @moduletag skip: @unavailable

  @mib 1_048_576
  @limit 256 * @mib
  @config [backoff: [initial_ms: 50, max_ms: 400]]
  # So many that the first victims make room for further growth. The VM without kills shows the
  # workers to take more than there is.
  @workers 40
  @kills 36

  # A container's view of the cgroups: the root is the container's cgroup.
  @namespace ~s(unshare --cgroup --mount sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' sh)
  @read_only ~s(unshare --mount sh -c 'mount -o remount,bind,ro /sys/fs/cgroup && exec "$@"' sh)
  @nobody "env HOME=/tmp setpriv --reuid 65534 --regid 65534 --clear-groups"
  @without_resource "setpriv --bounding-set -sys_resource --inh-caps -sys_resource"

  @tag :short
  test "memory.max: an unguarded VM is killed" do
    vm = LimitedVM.start!(@limit, nil)
    ref = Process.monitor(vm.peer)
    catch_exit(LimitedVM.call(vm, Workload, :unguarded, [4 * @limit]))
    assert_receive {:DOWN, ^ref, :process, _, _}, Patience.times(10_000)
    assert Cgroup.oom_kills(vm.cgroup) == 1
    say("unguarded", vm.cgroup, 0)
  end

  test "memory.max: a VM that may not kill its workers is killed, too" do
    vm = LimitedVM.start!(@limit, [kill: false] ++ @config)
    ref = Process.monitor(vm.peer)
    {supervisor, _} = start(vm)
    catch_exit(grow(vm, supervisor, @kills))
    assert_receive {:DOWN, ^ref, :process, _, _}, Patience.times(10_000)
    assert Cgroup.oom_kills(vm.cgroup) == 1
  end

  @tag :short
  test "memory.max: a guarded VM is not killed" do
    vm = LimitedVM.start!(@limit, @config)
    assert %{source: :cgroup_v2, limit_bytes: @limit} = snapshot(vm, vm.cgroup, "memory.max")
    survives(vm, "memory.max")
  end

  @tag :short
  test "memory.high below memory.max is the limit" do
    group = group(512 * @mib)
    Cgroup.write!(group, "memory.high", @limit)
    vm = LimitedVM.start!(group, @config)
    assert %{source: :cgroup_v2_high, limit_bytes: @limit} = snapshot(vm, group, "memory.high")
    survives(vm, "memory.high")
  end

  test "memory.high alone is a limit, too" do
    group = group("max")
    Cgroup.write!(group, "memory.high", @limit)
    vm = LimitedVM.start!(group, @config)
    assert %{source: :cgroup_v2_high, limit_bytes: @limit} = snapshot(vm, group, "memory.high")
    survives(vm, "memory.high alone")
  end

  test "an ancestor's limit, shared with a neighbour" do
    pod = group(@limit)
    [own, neighbour] = for limit <- ["max", 1024 * @mib], do: below(pod, limit)
    vm = LimitedVM.start!(own, @config)

    file = "/dev/shm/oom_test_#{System.pid()}"
    on_exit(fn -> File.rm(file) end)
    before = snapshot(vm, pod, "memory.max").working_set_bytes
    inside(neighbour, "head -c #{48 * @mib} /dev/zero > #{file}")
    assert snapshot(vm, pod, "memory.max").working_set_bytes - before > 40 * @mib

    survives(vm, "ancestor")
    assert Cgroup.oom_kills(pod) == 0
  end

  test "an ancestor's limit: an unguarded VM below is killed" do
    pod = group(@limit)
    vm = LimitedVM.start!(below(pod, "max"), nil)
    ref = Process.monitor(vm.peer)
    catch_exit(LimitedVM.call(vm, Workload, :unguarded, [4 * @limit]))
    assert_receive {:DOWN, ^ref, :process, _, _}, Patience.times(10_000)
    assert Cgroup.oom_kills(pod) == 1
  end

  test "a private cgroup namespace, of which the limit's group is the root" do
    vm = LimitedVM.start!(@limit, @config, @namespace)
    snapshot = LimitedVM.call(vm, OOM, :snapshot, [])
    assert %{source: :cgroup_v2, limit_bytes: @limit, cgroup: "/"} = snapshot
    assert snapshot.file == "/sys/fs/cgroup/memory.max"
    survives(vm, "private namespace")
  end

  test "the namespace of the host, and a mount that shows the limit's group alone" do
    group = group(@limit)
    mount = ~s(mount --bind "#{group.path}" /sys/fs/cgroup && exec "$@")
    vm = LimitedVM.start!(group, @config, "unshare --mount sh -c '#{mount}' sh")
    snapshot = LimitedVM.call(vm, OOM, :snapshot, [])
    assert %{source: :cgroup_v2, limit_bytes: @limit, cgroup: "/"} = snapshot
    assert snapshot.file == "/sys/fs/cgroup/memory.max"
    survives(vm, "bind mount")
  end

  test "a read-only cgroup mount" do
    vm = LimitedVM.start!(@limit, @config, @read_only)
    assert {:error, :erofs} = LimitedVM.call(vm, File, :mkdir, [Path.join(vm.cgroup.path, "no")])
    assert %{source: :cgroup_v2, limit_bytes: @limit} = snapshot(vm, vm.cgroup, "memory.max")
    survives(vm, "read-only mount")
  end

  @tag skip: @unavailable || Swap.unavailable()
  test "swap on zram, of which the group may use some" do
    Swap.on!(512 * @mib)
    group = group(@limit)
    Cgroup.write!(group, "memory.swap.max", 128 * @mib)
    vm = LimitedVM.start!(group, @config)

    assert %{source: :cgroup_v2, limit_bytes: @limit, swap_limit_bytes: 134_217_728} =
             snapshot(vm, group, "memory.max")

    # The kernel would only swap at the limit, and OOM stays away from the limit. The write fails
    # where the kernel found less than requested.
    File.write(Path.join(group.path, "memory.reclaim"), "32M")
    await_samples(vm)
    assert snapshot(vm, group, "memory.max").swap_usage_bytes > 8 * @mib

    survives(vm, "swap")
  end

  test "an unprivileged user" do
    vm = LimitedVM.start!(@limit, @config, @nobody)
    assert {"65534\n", 0} = LimitedVM.call(vm, System, :cmd, ["id", ["-u"]])
    assert %{source: :cgroup_v2, limit_bytes: @limit} = snapshot(vm, vm.cgroup, "memory.max")
    survives(vm, "unprivileged")
  end

  # PSI is only read, which needs no capability.
  for {through, name} <- [{"", "with"}, {@without_resource, "without"}] do
    test "#{name} CAP_SYS_RESOURCE the pressure is known" do
      vm = LimitedVM.start!(@limit, @config, unquote(through))
      assert resource?(vm) == (unquote(name) == "with")
      assert %{psi_some_total_us: total} = snapshot(vm, vm.cgroup, "memory.max")
      assert is_integer(total)
      survives(vm, "#{unquote(name)} CAP_SYS_RESOURCE")
    end
  end

  for {whose, file} <- [own: "memory.max", own: "memory.high", pod: "memory.max"] do
    test "#{file} of its #{whose} group goes down and up while it runs" do
      pod = group(1024 * @mib)
      own = below(pod, 1024 * @mib)
      changed = %{own: own, pod: pod}[unquote(whose)]
      vm = LimitedVM.start!(own, @config)
      {supervisor, protected} = start(vm)
      # 120 MiB: with the VM less than the lower limit, and critical under it.
      :ok = LimitedVM.call(vm, Workload, :fill, [supervisor, :low, @mib, 3, 5])
      assert LimitedVM.call(vm, OOM, :level, []) == :normal

      Cgroup.write!(changed, unquote(file), @limit)
      assert {:done, _} = grow(vm, supervisor, @kills)
      assert %{limit_bytes: @limit} = snapshot(vm, changed, unquote(file))
      intact(vm, supervisor, protected)
      assert Cgroup.oom_kills(pod) == 0

      Cgroup.write!(changed, unquote(file), 1024 * @mib)
      assert {:done, _} = LimitedVM.call(vm, Workload, :settle, [supervisor])
      assert %{limit_bytes: 1_073_741_824} = LimitedVM.call(vm, OOM, :snapshot, [])
      assert length(LimitedVM.call(vm, Workload, :pids, [supervisor, :low])) == @workers
      say("#{unquote(file)} of its #{unquote(whose)} group moved", own, @kills)
    end
  end

  test "moved to another cgroup while it runs" do
    # Removed after the VM is gone.
    group = group(@limit)
    vm = LimitedVM.start!(1024 * @mib, @config)
    assert snapshot(vm, vm.cgroup, "memory.max").limit_bytes == 1024 * @mib
    Cgroup.write!(group, "cgroup.procs", vm.os_pid)

    await_samples(vm)

    assert snapshot(vm, group, "memory.max").limit_bytes == @limit
  end

  test "read files are no pressure" do
    vm = LimitedVM.start!(@limit, @config)
    # On a disk, because /tmp may be memory.
    file = "/var/tmp/oom_test_#{System.pid()}"
    on_exit(fn -> File.rm(file) end)
    before = snapshot(vm, vm.cgroup, "memory.max")

    inside(
      vm.cgroup,
      "head -c #{100 * @mib} /dev/zero > #{file}; sync #{file}; cat #{file} > /dev/null"
    )

    await_samples(vm)

    later = snapshot(vm, vm.cgroup, "memory.max")
    assert later.usage_bytes - before.usage_bytes > 80 * @mib
    assert later.working_set_bytes - before.working_set_bytes < 16 * @mib
    assert later.level == :normal
  end

  test "a namespace whose view was mounted outside of it hides the limit, and the host's binds" do
    vm = LimitedVM.start!(@limit, @config, "unshare --cgroup")
    assert %{source: :host, file: "/proc/meminfo"} = LimitedVM.call(vm, OOM, :snapshot, [])
  end

  # A separate group with the given limit; swap is off unless the test turns it on.
  defp group(limit) do
    group = Cgroup.create!(@limit)
    on_exit(fn -> Cgroup.destroy(group) end)
    Cgroup.write!(group, "memory.max", limit)
    group
  end

  defp below(parent, limit) do
    group = Cgroup.below!(parent)
    on_exit(fn -> Cgroup.destroy(group) end)
    Cgroup.write!(group, "memory.max", limit)
    group
  end

  defp inside(group, command),
    do: {_, 0} = System.cmd("sh", ["-c", ~s(echo $$ > "#{Cgroup.procs(group)}"; #{command})])

  defp await_samples(vm) do
    samples = LimitedVM.call(vm, OOM, :snapshot, []).samples
    LimitedVM.call(vm, Workload, :await_samples, [samples + 2])
  end

  # The present snapshot, checked to come from this file.
  defp snapshot(vm, group, file) do
    snapshot = LimitedVM.call(vm, OOM, :snapshot, [])
    assert snapshot.file == Path.join(group.path, file)
    assert Path.basename(snapshot.cgroup) == Path.basename(group.path)
    snapshot
  end

  defp resource?(vm) do
    {:ok, status} = LimitedVM.call(vm, File, :read, ["/proc/self/status"])
    [_, set] = Regex.run(~r/^CapEff:\s+(\w+)$/m, status)
    Bitwise.band(String.to_integer(set, 16), Bitwise.bsl(1, 24)) != 0
  end

  # Leaking workers, and a protected worker that must not notice.
  defp start(vm) do
    workers =
      [{{:protected, 1}, [priority: :protected, mib: 8]}] ++
        for n <- 1..@workers, do: {{:low, n}, [priority: :low]}

    supervisor = LimitedVM.call(vm, Workload, :start, [workers, []])
    {supervisor, LimitedVM.call(vm, Workload, :pids, [supervisor, :protected])}
  end

  defp grow(vm, supervisor, kills) do
    args = [supervisor, :low, :binary, div(@mib, 4), 20, {:ended, :low, kills}]
    LimitedVM.call(vm, Workload, :grow_until, args)
  end

  defp intact(vm, supervisor, [protected]) do
    assert LimitedVM.call(vm, Workload, :pids, [supervisor, :protected]) == [protected]
    assert LimitedVM.call(vm, GenServer, :call, [protected, :state]) == 8
  end

  defp survives(vm, name) do
    {supervisor, protected} = start(vm)
    assert {:done, events} = grow(vm, supervisor, @kills)
    intact(vm, supervisor, protected)
    ended = for {:ended, {group, _}, reason, _} <- events, do: {group, reason}
    assert Enum.uniq(ended) == [{:low, {:shutdown, :memory_pressure}}]
    assert Cgroup.oom_kills(vm.cgroup) == 0
    assert LimitedVM.alive?(vm)
    say(name, vm.cgroup, length(ended))
  end

  defp say(name, group, killed) do
    events = for key <- ~w(high max oom oom_kill), do: "#{key} #{Cgroup.event(group, key)}"
    peak = Cgroup.number(group, "memory.peak")
    peak = if peak, do: "peak #{div(peak, @mib)} MiB, ", else: ""
    IO.puts("  v2, #{name}: killed #{killed} of priority :low; #{peak}#{Enum.join(events, ", ")}")
  end
end
