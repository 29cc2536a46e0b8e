defmodule OOM.Real.ReturnTest do
  @moduledoc false
  # Victims come back as soon as there is room, at any level. In a real cgroup, on a node that
  # never is :normal: the first watermark lies below the usage of the VM alone.

  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 180_000

  @mib 1_048_576
  @limit 512 * @mib
  # A floor of 26 MiB. The guard goes by growth, and here nothing grows fast.
  @config [
    watermarks: [elevated: 0.01, high: 0.02, critical: 0.95],
    max_heap_size: :infinity
  ]
  @hasty [backoff: [initial_ms: 20, max_ms: 400]]
  # For workers not to be tried before there is room.
  @patient [backoff: [initial_ms: 1, max_ms: 3_600_000]]

  defp start(config, workers) do
    vm = LimitedVM.start!(@limit, config)
    {vm, LimitedVM.call(vm, Workload, :start, [workers, [max_restarts: 1]])}
  end

  test "five workers of 30 MiB each are back beside 200 MiB, and none dies for that" do
    workers = [base(200) | for(i <- 1..5, do: {{:low, i}, [priority: :low, mib: 30]})]
    {vm, supervisor} = start(@config ++ @hasty, workers)
    killed = pids(vm, supervisor, :low)
    for pid <- killed, do: kill(vm, supervisor, pid, 30 * @mib)
    eventually(fn -> length(pids(vm, supervisor, :low) -- killed) == 5 end)
    eventually(fn -> held(vm) == [] end)
    # The level was critical for a moment in one of three whole suites.
    eventually(fn -> LimitedVM.call(vm, OOM, :level, []) == :high end)
    assert ended(vm) == [:low, :low, :low, :low, :low]
    refute Enum.any?(events(vm), &match?({:level, :normal, _, _}, &1))
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  test "a worker that does not fit waits, and is back when there is room" do
    {vm, supervisor} = start(@config ++ @patient, [base(300), {{:low, 1}, priority: :low}])
    [pid] = pids(vm, supervisor, :low)
    kill(vm, supervisor, pid, 200 * @mib)
    eventually(fn -> match?([%{state: :due}], held(vm)) end)
    eventually(fn -> quiet?(vm) end)
    tick(vm)
    assert [%{state: :due}] = held(vm)

    [base] = pids(vm, supervisor, :base)
    LimitedVM.call(vm, GenServer, :cast, [base, :drop])
    eventually(fn -> match?([_], pids(vm, supervisor, :low)) end)
    assert held(vm) == []
    # The level was critical for a moment in one of three whole suites.
    eventually(fn -> LimitedVM.call(vm, OOM, :level, []) == :high end)
    refute Enum.any?(events(vm), &match?({:level, :normal, _, _}, &1))
  end

  test "a leak larger than the room is back all the same, and is reported" do
    leak = {{:low, 1}, [priority: :low]}
    # Not back before the other worker has taken a part of the room.
    late = [backoff: [initial_ms: 2_000, max_ms: 2_000]]
    {vm, supervisor} = start(@config ++ late, [base(150), leak])
    {:ok, _} = LimitedVM.call(vm, :application, :ensure_all_started, [:sasl])
    [pid] = pids(vm, supervisor, :low)
    args = [supervisor, :low, :binary, 2 * @mib, 20, {:ended, :low, 1}]
    assert {:done, _} = LimitedVM.call(vm, Workload, :grow_until, args)
    # Killed a little before the floor, the worker would fit again.
    [base] = pids(vm, supervisor, :base)
    LimitedVM.call(vm, GenServer, :cast, [base, {:grow, :binary, 100 * @mib}])
    eventually(fn -> match?([new] when new != pid, pids(vm, supervisor, :low)) end)
    alarms = LimitedVM.call(vm, :alarm_handler, :get_alarms, [])
    assert [{{:oom_no_room, {^supervisor, {:low, 1}}}, message}] = alarms
    assert message =~ "it last held"
    assert ended(vm) == [:low]
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  test "a protected child killed by hand is back at once, at any level" do
    {vm, supervisor} =
      start(@config ++ @hasty, [base(200), {{:precious, 1}, priority: :protected}])

    [pid] = pids(vm, supervisor, :precious)
    before = LimitedVM.call(vm, System, :monotonic_time, [:millisecond])
    true = LimitedVM.call(vm, Process, :exit, [pid, :kill])
    eventually(fn -> match?([new] when new != pid, pids(vm, supervisor, :precious)) end)
    assert held(vm) == []
    [_, at] = for {:started, {:precious, 1}, at} <- events(vm), do: at
    # The supervisor waits for nothing; the machine may be busy.
    assert at - before < 1_000
  end

  defp base(mib), do: {{:base, 1}, [priority: :protected, mib: mib]}

  # Kills as the guard does, with the guard's figure.
  defp kill(vm, supervisor, pid, bytes) do
    now = LimitedVM.call(vm, System, :monotonic_time, [:millisecond])
    LimitedVM.call(vm, OOM.Kill, :begin, [pid, supervisor, bytes, now, 1_000])
  end

  defp pids(vm, supervisor, group), do: LimitedVM.call(vm, Workload, :pids, [supervisor, group])
  defp held(vm), do: LimitedVM.call(vm, OOM, :held, [])
  defp events(vm), do: LimitedVM.call(vm, Workload, :events, [])
  defp ended(vm), do: for({:ended, {group, _}, _, _} <- events(vm), do: group)

  # The guard's kills are over, and no worker waits or comes back.
  defp quiet?(vm) do
    now = LimitedVM.call(vm, System, :monotonic_time, [:millisecond])
    not LimitedVM.call(vm, OOM.RecentKills, :on_their_way?, [now])
  end

  # Returns once the holds have been looked through again.
  defp tick(vm) do
    LimitedVM.call(vm, :erlang, :send, [OOM.Holds, :tick])
    LimitedVM.call(vm, :sys, :get_state, [OOM.Holds])
  end
end
