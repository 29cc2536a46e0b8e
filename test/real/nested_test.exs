defmodule OOM.Real.NestedTest do
  @moduledoc false
  # Growth below a supervisor that a worker has started. In real cgroups, with the defaults.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Nested, Patience}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: Patience.times(60_000)

  @mib 1_048_576

  for kind <- [:worker, :unit], trap? <- [true, false] do
    test "a process deep below a #{kind} (traps exits: #{trap?}) is ended, and the node lives" do
      vm = LimitedVM.start!(256 * @mib, [])
      :ok = LimitedVM.call(vm, Nested, :start, [unquote(kind), unquote(trap?), 100_000_000])
      :ok = LimitedVM.call(vm, Nested, :await_end, [])
      assert [_held] = LimitedVM.call(vm, OOM, :held, [])
      assert LimitedVM.alive?(vm)
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
