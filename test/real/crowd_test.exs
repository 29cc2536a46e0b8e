defmodule OOM.Real.CrowdTest do
  @moduledoc false
  # Ten thousand connections are fine, and more come than fit. None grows; there are ever more of them.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Crowd, LimitedVM}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576

  for priority <- [:low, :normal] do
    test "connections of priority #{priority} beyond those that fit are turned away, and the first stay" do
      vm = LimitedVM.start!(256 * @mib, [])
      # Some 1,700 fit.
      first = LimitedVM.call(vm, Crowd, :flood, [unquote(priority), 5_000, 1_000, 40, 300])
      assert {300, count} = LimitedVM.call(vm, Crowd, :alive, [first])
      assert count in 800..3_000
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
