defmodule OOM.Real.BusyTest do
  @moduledoc false
  # A node that uses most of its limit and works: what it takes it gives back. Nobody dies of that.

  use ExUnit.Case, async: false

  alias OOM.Test.{Busy, Cgroup, LimitedVM}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576

  for {kib, period_ms, held_mib} <- [{1_000, 300, 200}, {200, 100, 330}] do
    test "50 workers that build #{kib} KiB and drop it, beside #{held_mib} MiB of 512" do
      vm = LimitedVM.start!(512 * @mib, [])
      work = [OOM.Supervisor, 50, unquote(kib), unquote(period_ms), unquote(held_mib)]
      workers = LimitedVM.call(vm, Busy, :start, work)
      assert {50, _refused} = LimitedVM.call(vm, Busy, :watch, [workers, 8, true])
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
