defmodule OOM.Real.UsedTest do
  @moduledoc false
  # Used memory, compared with the kernel's charges to a VM's cgroup. On v1 and v2.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Patience, Swap, Workload}

  @unavailable Cgroup.unavailable()

  @moduletag :cgroup
  @moduletag skip: @unavailable
  @moduletag timeout: Patience.times(120_000)

  @mib 1_048_576
  @limit 512 * @mib
  # The fluctuation of a VM at rest, its libraries' pages, and the kernel's advance charges.
  @noise 16 * @mib

  test "the pages of a file are not used, however often the file was read" do
    vm = LimitedVM.start!(@limit, [])
    # On a disk, because /tmp may be memory.
    file = path("/var/tmp")
    # Written elsewhere, and not in the cache: pages belong to the group that brought them in.
    {_, 0} = sh("head -c #{200 * @mib} /dev/zero > #{file}; sync #{file}; #{forget(file)}")
    before = snapshot(vm)

    for _ <- 1..3, do: inside(vm.cgroup, "cat #{file} > /dev/null")

    later = snapshot(vm)
    assert Cgroup.kept_file_bytes(vm.cgroup) > 150 * @mib
    assert later.usage_bytes - before.usage_bytes > 180 * @mib
    assert later.reclaimable_bytes - before.reclaimable_bytes > 180 * @mib
    assert abs(later.working_set_bytes - before.working_set_bytes) < @noise
    assert later.level == :normal
  end

  test "unwritten pages of a file are used in part" do
    vm = LimitedVM.start!(@limit, [])
    before = snapshot(vm)
    inside(vm.cgroup, "head -c #{100 * @mib} /dev/zero > #{path("/var/tmp")}")
    later = snapshot(vm)
    assert later.usage_bytes - before.usage_bytes > 90 * @mib
    # A sixteenth of the limit.
    assert later.working_set_bytes - before.working_set_bytes < 32 * @mib + @noise
  end

  test "cached lookups of missing names do not count as used" do
    vm = LimitedVM.start!(@limit, [])
    before = snapshot(vm)
    # A new name for each, or the name is in the cache already; 192 bytes each.
    names = path("/var/tmp")
    File.mkdir!(names)
    inside(vm.cgroup, "perl -e 'stat qq(#{names}/$_) for 1..400_000'")

    later = snapshot(vm)
    assert later.usage_bytes - before.usage_bytes > 60 * @mib
    assert later.working_set_bytes - before.working_set_bytes < @noise
    assert later.level == :normal
  end

  @tag :short
  test "files in memory are used, until they are deleted" do
    vm = LimitedVM.start!(@limit, [])
    file = path("/dev/shm")
    before = snapshot(vm)
    inside(vm.cgroup, "head -c #{50 * @mib} /dev/zero > #{file}; cat #{file} > /dev/null")
    full = snapshot(vm)
    assert full.working_set_bytes - before.working_set_bytes > 50 * @mib - @noise
    assert full.reclaimable_bytes - before.reclaimable_bytes < @noise

    File.rm!(file)
    assert abs(snapshot(vm).working_set_bytes - before.working_set_bytes) < @noise
  end

  test "socket buffers, which the kernel cannot take back, are used" do
    vm = LimitedVM.start!(@limit, [])
    before = snapshot(vm)
    port = buffers(vm.cgroup, 400)
    full = snapshot(vm)
    assert full.usage_bytes - before.usage_bytes > 70 * @mib
    assert full.working_set_bytes - before.working_set_bytes > 60 * @mib
    Port.close(port)
  end

  @tag skip:
         @unavailable || Swap.unavailable() ||
           if(Cgroup.version() != 1, do: "cgroup v1 alone limits memory and swap together")
  test "memory and swap together are a limit of their own" do
    Swap.on!(512 * @mib)
    vm = LimitedVM.start!(@limit, [])
    group = vm.cgroup
    [worker] = start(vm)

    for _ <- 1..160,
        do: :ok = LimitedVM.call(vm, GenServer, :cast, [worker, {:grow, :binary, @mib}])

    assert LimitedVM.call(vm, GenServer, :call, [worker, :ping]) == :pong

    # The lower limit pushes some pages out to swap; once the higher limit is back, only the sum
    # is near.
    :ok = Cgroup.limit!(group, 150 * @mib)
    :ok = Cgroup.limit!(group, 300 * @mib)
    :ok = Cgroup.write!(group, "memory.memsw.limit_in_bytes", 300 * @mib)

    snapshot = snapshot(vm)
    assert snapshot.source == :cgroup_v1_memsw
    assert snapshot.file == Path.join(group.path, "memory.memsw.limit_in_bytes")
    assert snapshot.usage_bytes > Cgroup.usage(group) + 20 * @mib
    assert snapshot.headroom_bytes == 300 * @mib - snapshot.working_set_bytes
  end

  defp start(vm) do
    supervisor = LimitedVM.call(vm, Workload, :start, [[{{:low, 1}, [priority: :low]}], []])
    LimitedVM.call(vm, Workload, :pids, [supervisor, :low])
  end

  # Sockets with full buffers, for as long as the port is open.
  defp buffers(group, count) do
    script = """
    use Socket; use IO::Handle;
    for (1..#{count}) {
      socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;
      $a->blocking(0); push @keep, $a, $b; my $x = "x" x 4096; 1 while syswrite($a, $x);
    }
    syswrite(STDOUT, "full\\n"); <STDIN>;
    """

    args = ["-c", ~s(echo $$ > "#{Cgroup.procs(group)}"; exec perl -e "$0"), script]
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, line: 80, args: args])
    assert_receive {^port, {:data, {:eol, "full"}}}, Patience.times(20_000)
    port
  end

  # The present figures: two samples later.
  defp snapshot(vm) do
    samples = LimitedVM.call(vm, OOM, :snapshot, []).samples
    LimitedVM.call(vm, Workload, :await_samples, [samples + 2])
    LimitedVM.call(vm, OOM, :snapshot, [])
  end

  defp path(directory) do
    path = Path.join(directory, "oom_used_#{System.pid()}_#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm_rf(path) end)
    path
  end

  defp forget(file), do: "dd if=#{file} iflag=nocache count=0 status=none"

  defp inside(group, command),
    do: {_, 0} = sh(~s(echo $$ > "#{Cgroup.procs(group)}"; #{command}))

  defp sh(command), do: System.cmd("sh", ["-c", command])
end
