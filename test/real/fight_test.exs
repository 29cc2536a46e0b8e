defmodule OOM.Real.FightTest do
  @moduledoc false
  # 50 permanent workers that allocate on start, under a limit with room for fifteen. A supervisor
  # restarting the guard's victims would fight the guard until one side loses.
  #
  #   OOM_FIGHT_SECONDS=60 mix test test/real/fight_test.exs
  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Fight, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: :infinity

  @mib 1_048_576
  @limit 512 * @mib
  @bytes 28 * @mib
  # Up to the floor of 28 MiB, beside the VM's own 60.
  @fits div(@limit - (28 + 60) * @mib, @bytes)
  @count 50
  @seconds String.to_integer(System.get_env("OOM_FIGHT_SECONDS", "8"))

  test "a plain supervisor is the end of the VM" do
    vm = LimitedVM.start!(@limit, nil)
    ref = Process.monitor(vm.peer)
    LimitedVM.call(vm, Fight, :start, [Supervisor, @count, @bytes])
    assert_receive {:DOWN, ^ref, :process, _, _}, 60_000
    assert Cgroup.oom_kills(vm.cgroup) == 1
  end

  test "under an OOM.Supervisor as many run as fit, and the rest is held" do
    vm = LimitedVM.start!(@limit, [])
    ref = Process.monitor(vm.peer)
    LimitedVM.call(vm, Fight, :start, [OOM.Supervisor, @count, @bytes])
    # The test is about this time.
    refute_receive {:DOWN, ^ref, :process, _, _}, @seconds * 1_000

    assert LimitedVM.call(vm, Workload, :await_process, [Fight.Supervisor])
    report = LimitedVM.call(vm, Fight, :report, [])

    minutes =
      report.starts_ms |> Enum.group_by(&div(&1, 60_000)) |> Enum.map(&length(elem(&1, 1)))

    later = Enum.count(report.starts_ms, &(&1 > 5_000))

    IO.puts(
      "fight: #{@seconds} s: #{report.running} of #{@count} run, #{report.held} are held; " <>
        "starts in each minute: #{inspect(minutes, charlists: :as_lists)}, after the first 5 s: #{later}"
    )

    assert LimitedVM.alive?(vm)
    assert Cgroup.oom_kills(vm.cgroup) == 0
    # A worker may not be back yet, or not find enough room.
    assert report.running in div(@fits, 2)..(@fits + 1)
    assert report.down == @count - report.running
    assert report.held >= report.down - 1
    # Each is started once at first, and then no oftener than its backoff and the room allow.
    assert length(report.starts_ms) <= @count * (2 + div(@seconds, 15))
  end
end
