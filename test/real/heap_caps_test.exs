defmodule OOM.Real.HeapCapsTest do
  @moduledoc false
  # Heap caps on the real thing: the spared workers, and caps following the limit.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Heaps, LimitedVM}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576
  @limit 512 * @mib

  test "a protected worker grows a heap of 72 MB, above the old default cap" do
    vm = LimitedVM.start!(@limit, max_heap_size: {:percent_of_limit, 35})
    pid = LimitedVM.call(vm, Heaps, :start, [[priority: :protected]])
    :ok = LimitedVM.call(vm, Heaps, :await_cap, [0])
    :ok = LimitedVM.call(vm, Heaps, :grow, [15])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
    assert LimitedVM.call(vm, Heaps, :grow, [15]) == :ok
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
  end

  test "caps follow the limit up and down, and a worker needs what it needs" do
    vm = LimitedVM.start!(@limit, max_heap_size: {:percent_of_limit, 35})
    pid = LimitedVM.call(vm, Heaps, :start, [[]])
    share = &(div(trunc(&1 * 35 / 100), 8) * 8)

    for limit <- [@limit, 4096 * @mib, @limit, 4096 * @mib] do
      Cgroup.limit!(vm.cgroup, limit)
      :ok = LimitedVM.call(vm, Heaps, :await_cap, [share.(limit)])
    end

    :ok = LimitedVM.call(vm, Heaps, :grow, [30])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid

    # Far less than the worker holds: the worker lives on, and so does the VM.
    Cgroup.limit!(vm.cgroup, 1024 * @mib)
    :ok = LimitedVM.call(vm, Heaps, :grow, [3])
    assert LimitedVM.call(vm, Process, :whereis, [Heaps]) == pid
  end
end
