defmodule OOM.Real.HealthyTest do
  @moduledoc false
  # A healthy node is never harmed: nobody is killed, held, refused or capped for a level alone.
  # In real cgroups, with the defaults.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Healthy, Heaps, LimitedVM, Patience, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: Patience.times(120_000)

  @mib 1_048_576
  @limit 512 * @mib

  describe "what stands still" do
    test "at two thirds of the limit is normal: all live, nobody is held, all are admitted" do
      vm = LimitedVM.start!(@limit, [])
      workers = for i <- 1..28, do: {i, {:binaries, 10 * @mib}, priority: :normal}
      supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
      before = pids(vm, supervisor)
      looked_at(vm)
      assert pids(vm, supervisor) == before
      assert map_size(before) == 28
      unharmed(vm)
      assert LimitedVM.call(vm, Workload, :await, [[:level], [:normal]]) == :normal
    end

    test "at nine tenths of the limit loses nobody, and turns nobody away" do
      vm = LimitedVM.start!(@limit, [])
      workers = for i <- 1..20, do: {i, {:binaries, 0}, priority: :low}
      supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
      before = pids(vm, supervisor)
      :ok = LimitedVM.call(vm, Healthy, :fill_up, [supervisor, div(@limit, 10), :slow])
      looked_at(vm)
      assert pids(vm, supervisor) == before
      unharmed(vm)
      assert LimitedVM.call(vm, OOM, :level, []) in [:normal, :elevated]
    end

    # Half of the floor is left.
    test "below the floor loses nobody, as long as nothing grows" do
      vm = LimitedVM.start!(@limit, [])
      workers = for i <- 1..20, do: {i, {:binaries, 0}, priority: :low}
      supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
      before = pids(vm, supervisor)
      # A protected worker takes the remaining memory, so the rest only stand there.
      filler = [{:filler, {:binaries, 0}, priority: :protected}]
      filler = LimitedVM.call(vm, Healthy, :start, [filler])
      :ok = LimitedVM.call(vm, Healthy, :fill_up, [filler, 22 * @mib, :slow])
      looked_at(vm)
      assert pids(vm, supervisor) == before
      assert LimitedVM.call(vm, OOM, :held, []) == []
      assert LimitedVM.call(vm, OOM, :level, []) == :critical
    end
  end

  describe "a cache that is loaded at once, as fast as it can" do
    for {kind, percent} <- [binaries: 65, binaries: 78, table: 65] do
      test "is there afterwards (#{kind}, #{percent} % of the limit)" do
        vm = LimitedVM.start!(@limit, [])
        load = {unquote(kind), div(@limit * unquote(percent), 100)}
        supervisor = LimitedVM.call(vm, Healthy, :start, [[{Cache, load, []}]])
        assert %{Cache => pid} = pids(vm, supervisor)
        # A worker killed in `init/1` has come back since, with a new pid.
        assert LimitedVM.call(vm, OOM.Victims, :bytes, [pid]) == 0
        looked_at(vm)
        assert pids(vm, supervisor) == %{Cache => pid}
        assert victims(vm) == []
        unharmed(vm)
      end
    end
  end

  describe "memory the kernel takes back by itself" do
    # Limits so near that the node would be critical if read files counted, beside about 120 MiB
    # used.
    setup %{limit: mib} do
      vm = LimitedVM.start!(mib * @mib, [])
      workers = for i <- 1..12, do: {i, {:binaries, 5 * @mib}, priority: :normal}
      supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
      # On a disk, because /tmp may be memory.
      path = "/var/tmp/oom_healthy_#{System.pid()}_#{System.unique_integer([:positive])}"
      on_exit(fn -> File.rm_rf(path) end)
      %{vm: vm, supervisor: supervisor, before: pids(vm, supervisor), path: path}
    end

    @tag :short
    @tag limit: 400
    test "is no pressure: a file read again and again", context do
      %{vm: vm, path: file} = context
      # Written elsewhere, and not in the cache: pages belong to the group that brought them in.
      forget = "dd if=#{file} iflag=nocache count=0 status=none"
      {_, 0} = sh("head -c #{260 * @mib} /dev/zero > #{file}; sync #{file}; #{forget}")
      for _ <- 1..2, do: inside(vm.cgroup, "cat #{file} > /dev/null")
      # Used twice, so the kernel prefers to keep the pages.
      assert Cgroup.kept_file_bytes(vm.cgroup) > 200 * @mib
      assert Cgroup.usage(vm.cgroup) > 340 * @mib
      all_live(context)
    end

    @tag :short
    @tag limit: 200
    test "is no pressure: lookups of missing names", context do
      %{vm: vm, path: names} = context
      File.mkdir!(names)
      # A new name for each, or the name is in the cache already; 192 bytes each. Looked at ten
      # times, because the kernel gives up names, now and then all at once, as soon as the limit
      # is reached.
      looks =
        for part <- 1..10 do
          inside(vm.cgroup, "perl -e 'stat qq(#{names}/#{part}_$_) for 1..50_000'")
          {Cgroup.kernel_bytes(vm.cgroup), Cgroup.usage(vm.cgroup)}
        end

      # Earlier file pages have made room for some of the names.
      assert {kernel, usage} = Enum.max(looks)
      assert kernel > 60 * @mib
      assert usage > 180 * @mib
      all_live(context)
    end
  end

  test "after the leak of one worker nothing is missing: only the leak was killed, and is back" do
    vm = LimitedVM.start!(@limit, backoff: [initial_ms: 200, max_ms: 1_000])

    workers = [
      {Base, {:binaries, 150 * @mib}, priority: :protected},
      {Precious, {:binaries, 0}, priority: :protected},
      {Leaky, {:binaries, 0}, priority: :low}
    ]

    supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
    %{Base => base, Precious => precious, Leaky => leaky} = pids(vm, supervisor)

    assert {:shutdown, :memory_pressure} ==
             LimitedVM.call(vm, Healthy, :ended, [leaky, {GenServer, :cast, [leaky, :leak]}])

    # By hand, at any level: the supervisor brings the worker back.
    true = LimitedVM.call(vm, Process, :exit, [precious, :kill])
    LimitedVM.call(vm, Healthy, :await_other, [Precious, precious])
    LimitedVM.call(vm, Healthy, :await_other, [Leaky, leaky])
    :ok = LimitedVM.call(vm, Healthy, :await_none_held, [])
    assert %{Base => ^base} = pids(vm, supervisor)
    unharmed(vm)
  end

  test "a protected worker that grows a heap of 144 MB by small steps meets no cap" do
    vm = LimitedVM.start!(@limit, max_kills: 3)
    pid = LimitedVM.call(vm, Heaps, :start, [[priority: :protected]])
    :ok = LimitedVM.call(vm, Heaps, :grow, [30])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
    unharmed(vm)
  end

  test "a worker with more room since the limit was raised may use the room" do
    vm = LimitedVM.start!(@limit, [])
    pid = LimitedVM.call(vm, Heaps, :start, [[]])
    Cgroup.limit!(vm.cgroup, 4096 * @mib)
    :ok = LimitedVM.call(vm, Heaps, :grow, [30])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
    assert LimitedVM.call(vm, OOM, :snapshot, []).limit_bytes == 4096 * @mib
    unharmed(vm)
  end

  test "thousands of unknown workers are killed for nobody" do
    vm = LimitedVM.start!(@limit, [])
    count = Patience.share(10_000)
    base = {Base, {:binaries, 200 * @mib}, priority: :protected}
    workers = [base | for(i <- 1..count, do: {i, {:binaries, 0}, []})]
    supervisor = LimitedVM.call(vm, Healthy, :start, [workers])
    before = pids(vm, supervisor)
    assert map_size(before) == count + 1
    looked_at(vm)
    assert pids(vm, supervisor) == before
    assert victims(vm) == []
    unharmed(vm)
  end

  defp all_live(%{vm: vm, supervisor: supervisor, before: before}) do
    assert map_size(before) == 12
    looked_at(vm)
    assert pids(vm, supervisor) == before
    assert victims(vm) == []
    unharmed(vm)
    assert LimitedVM.call(vm, Workload, :await, [[:level], [:normal]]) == :normal
  end

  defp inside(group, command),
    do: {_, 0} = sh(~s(echo $$ > "#{Cgroup.procs(group)}"; #{command}))

  defp sh(command), do: System.cmd("sh", ["-c", command])

  defp pids(vm, supervisor), do: LimitedVM.call(vm, Healthy, :pids, [supervisor])

  # Victims of the guard within the last minute.
  defp victims(vm), do: LimitedVM.call(vm, :ets, :tab2list, [OOM.Victims])

  defp unharmed(vm) do
    assert LimitedVM.call(vm, OOM, :held, []) == []
    # Work may have been turned away while memory grew.
    :ok = LimitedVM.call(vm, Healthy, :await_admitted, [])
    assert LimitedVM.alive?(vm)
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  # Several looks, by every process that could do harm, with fresh figures.
  defp looked_at(vm) do
    for _ <- 1..5 do
      :ok = LimitedVM.call(vm, OOM.Accountant, :pass, [])
      LimitedVM.call(vm, :erlang, :send, [OOM.Guard, :look])
      LimitedVM.call(vm, :erlang, :send, [OOM.Shed, :look])

      for part <- [OOM.Guard, OOM.Shed, OOM.Holds],
          do: LimitedVM.call(vm, :sys, :get_state, [part])
    end
  end
end
