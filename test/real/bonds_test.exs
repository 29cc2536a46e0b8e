defmodule OOM.Real.BondsTest do
  @moduledoc false
  # A worker that would take a protected worker along is not killed, at any size; an equally low
  # worker without a bond is. On the real thing.

  use ExUnit.Case, async: false

  alias OOM.Test.{Bound, Cgroup, LimitedVM}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576

  for {kind, what} <- [
        link: "linked with it",
        helper: "which it has started",
        stream: "whose stream of tasks it reads",
        call: "whose answer it waits for"
      ] do
    test "a protected worker outlives the pressure of a low one #{what}" do
      vm = LimitedVM.start!(512 * @mib, max_heap_size: :infinity)
      :ok = LimitedVM.call(vm, Bound, :start, [unquote(kind)])

      assert LimitedVM.call(vm, Bound, :await, []) ==
               {{:shutdown, :memory_pressure}, true, [Bound.Free]}

      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
