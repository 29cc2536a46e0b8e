defmodule OOM.Real.BinaryCapsTest do
  @moduledoc false
  # Caps counting binaries, on the real thing.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Heaps, LimitedVM, Patience}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: Patience.times(120_000)

  @mib 1_048_576
  @cap %{size: 80 * @mib, include_shared_binaries: true}

  test "a worker capped with its binaries lives below the cap, on every release" do
    vm = LimitedVM.start!(512 * @mib, [])
    pid = LimitedVM.call(vm, Heaps, :start, [[priority: :low, max_heap_size: @cap]])
    :ok = LimitedVM.call(vm, Heaps, :await_cap, [80 * @mib])
    :ok = LimitedVM.call(vm, Heaps, :grow, [1])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
  end

  # No earlier OTP counts binaries.
  if String.to_integer(System.otp_release()) >= 26 do
    test "a burst of binaries within one timeslice is ended by the cap, as no signal could" do
      vm = LimitedVM.start!(512 * @mib, [])
      LimitedVM.call(vm, Heaps, :start, [[priority: :low, max_heap_size: @cap]])
      :ok = LimitedVM.call(vm, Heaps, :await_cap, [80 * @mib])
      assert LimitedVM.call(vm, Heaps, :slice, []) == :killed
      :ok = LimitedVM.call(vm, OOM.Test.Healthy, :await_held, [Heaps])
      assert Cgroup.oom_kills(vm.cgroup) == 0
    end
  end
end
