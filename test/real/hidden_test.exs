defmodule OOM.Real.HiddenTest do
  @moduledoc false
  # Growth that no figure of a process shows, beside workers of a higher rank that hold more.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576

  for kind <- [:parts, :timers] do
    test "#{kind} are found in the workers that make them" do
      vm = LimitedVM.start!(256 * @mib, backoff: [initial_ms: 60_000, max_ms: 60_000])
      low = for i <- 1..4, do: {{:low, i}, [priority: :low]}
      normal = for i <- 1..20, do: {{:normal, i}, [priority: :normal, mib: 3]}
      supervisor = LimitedVM.call(vm, Workload, :start, [low ++ normal, []])
      args = [supervisor, :low, unquote(kind), 524_288, 5, {:ended, :low, 2}]
      assert {:done, events} = LimitedVM.call(vm, Workload, :grow_until, args)
      assert Enum.filter(events, &match?({:ended, {:normal, _}, _, _}, &1)) == []
      assert length(LimitedVM.call(vm, Workload, :pids, [supervisor, :normal])) == 20
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
