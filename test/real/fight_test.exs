defmodule OOM.Real.FightTest do
  @moduledoc false
  # More permanent workers than the limit fits, each of which takes its memory when it starts.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 180_000

  @mib 1_048_576
  @limit 512 * @mib
  @workers 50
  @each_mib 40
  @run_ms 30_000

  test "some run, the others are held, and starts are bounded" do
    vm = LimitedVM.start!(@limit, max_heap_size: :infinity)
    workers = for i <- 1..@workers, do: {{:w, i}, [mib: @each_mib]}
    supervisor = LimitedVM.call(vm, Workload, :start, [workers, []])
    Process.sleep(@run_ms)

    assert LimitedVM.alive?(vm)
    assert Cgroup.oom_kills(vm.cgroup) == 0
    assert LimitedVM.call(vm, Process, :alive?, [supervisor])
    events = LimitedVM.call(vm, Workload, :events, [])
    running = LimitedVM.call(vm, Workload, :pids, [supervisor, :any])
    held = LimitedVM.call(vm, OOM, :held, [])
    starts = for {:started, _, at} <- events, do: at

    # What fits, above the first watermark or a little below it.
    assert length(running) in 3..9
    assert length(running) + length(held) == @workers
    # Each of them once, and then one now and then, where the backoff and the room let it.
    assert length(starts) <= @workers + div(@run_ms, 1_000)
  end
end
