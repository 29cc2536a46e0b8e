defmodule OOM.Real.GuardTest do
  @moduledoc false
  # The guard itself: memory given back without a kill, work avoided before a kill, and the state
  # after a crash.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576
  @limit 256 * @mib
  @config [backoff: [initial_ms: 50, max_ms: 400]]

  defp workers(count), do: for(i <- 1..count, do: {{:low, i}, [priority: :low]})

  defp grow(vm, supervisor, done),
    do: LimitedVM.call(vm, Workload, :grow_until, [supervisor, :low, :binary, 100_000, 20, done])

  test "a trim hands freed, cached segments back to the system at once" do
    # Far from any watermark, so only this test trims.
    vm = LimitedVM.start!(4096 * @mib, max_heap_size: :infinity)

    if LimitedVM.call(vm, OOM.Trim, :enabled?, [:auto]) do
      :ok = LimitedVM.call(vm, Workload, :churn, [90 * @mib])
      {cached, left} = LimitedVM.call(vm, Workload, :trim, [])
      # The VM alone drops one cached segment a second.
      assert cached - left > 40 * @mib
    end
  end

  test "cached segments alone kill nobody" do
    vm = LimitedVM.start!(512 * @mib, max_heap_size: :infinity)
    supervisor = LimitedVM.call(vm, Workload, :start, [workers(50), []])
    for _ <- 1..3, do: :ok = LimitedVM.call(vm, Workload, :churn, [90 * @mib])
    assert {:done, events} = LimitedVM.call(vm, Workload, :settle, [supervisor])
    assert Enum.any?(events, &match?({:level, _, _, _}, &1))
    assert Enum.filter(events, &match?({:ended, _, _, _}, &1)) == []
  end

  test "loads no module of the reaction's at the time of a kill" do
    vm = LimitedVM.start!(@limit, @config)
    supervisor = LimitedVM.call(vm, Workload, :start, [workers(60), []])
    # A log message that has an atom loads Macro, by which Inspect writes atoms.
    {:module, Macro} = LimitedVM.call(vm, Code, :ensure_loaded, [Macro])
    before = MapSet.new(LimitedVM.call(vm, :code, :all_loaded, []), &elem(&1, 0))
    assert {:done, _} = grow(vm, supervisor, {:ended, :low, 20})
    after_kills = MapSet.new(LimitedVM.call(vm, :code, :all_loaded, []), &elem(&1, 0))

    # Modules of the log and the workload may come late; OOM.Reporter is not on the way.
    late =
      MapSet.difference(after_kills, before)
      |> Enum.map(&inspect/1)
      |> Enum.reject(&(&1 =~ ~r/^(Inspect|String|Logger|Code|Enumerable\.Range|:calendar|:io)/))

    assert late == []
  end

  for part <- [OOM.Guard, OOM.Accountant, OOM.Holds, OOM.Asker, OOM.Reporter, OOM.Notifier] do
    test "a crash of #{inspect(part)} in the middle of a round loses nothing" do
      vm = LimitedVM.start!(@limit, @config)
      supervisor = LimitedVM.call(vm, Workload, :start, [workers(60), []])
      assert {:done, _} = grow(vm, supervisor, {:ended, :low, 5})
      assert LimitedVM.call(vm, Workload, :crash, [unquote(part)])
      assert {:done, _} = grow(vm, supervisor, {:ended, :low, 25})
      assert {:done, events} = LimitedVM.call(vm, Workload, :settle, [supervisor])

      assert length(LimitedVM.call(vm, Workload, :pids, [supervisor, :low])) == 60

      for i <- 1..60 do
        life = for event <- events, elem(event, 1) == {:low, i}, do: elem(event, 0)

        assert life == Enum.take(Stream.cycle([:started, :ended]), length(life))
      end

      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end

  test "a part that crashes again and again does not end the application" do
    vm = LimitedVM.start!(@limit, @config)
    guard = LimitedVM.call(vm, Process, :whereis, [OOM.Guard])
    ref = LimitedVM.call(vm, Workload, :crash_until_down, [OOM.Accountant, guard])
    assert ref == :down
    # The guard is back after the pause.
    assert LimitedVM.call(vm, Workload, :await_process, [OOM.Guard])
    assert LimitedVM.call(vm, OOM, :snapshot, []).limit_bytes == @limit

    assert Enum.any?(
             LimitedVM.call(vm, :application, :which_applications, []),
             &match?({:oom, _, _}, &1)
           )
  end
end
