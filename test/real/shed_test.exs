defmodule OOM.Real.ShedTest do
  @moduledoc false
  # A supervisor giving back half of its children at once, on the real thing.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576
  @limit 256 * @mib
  @count 20

  test "the newest half of the lowest priority goes before the level is critical" do
    # The backoff has full jitter: of 10 children with 60 s, one in 10 times one is back within a second.
    vm = LimitedVM.start!(@limit, backoff: [initial_ms: 1_000_000_000, max_ms: 1_000_000_000])

    workers =
      for(n <- 1..@count, do: {{:low, n}, [priority: :low]}) ++
        for n <- 1..@count, do: {{:normal, n}, [priority: :normal]}

    options = [oom: [shed: {:fraction, 0.5}]]
    supervisor = LimitedVM.call(vm, Workload, :start, [workers, options])

    # 20 MiB/s among all.
    args = [supervisor, :any, :binary, div(@mib, 2), 1_000, {:ended, :low, 10}]
    assert {:done, _} = LimitedVM.call(vm, Workload, :grow_until, args)
    # The remaining workers stand still now, and the pressure is over.
    LimitedVM.call(vm, Workload, :await, [[:level], [:normal, :elevated]])
    events = LimitedVM.call(vm, Workload, :events, [])

    ended = for {:ended, name, reason, _} <- events, do: {name, reason}
    assert Enum.all?(ended, fn {_, reason} -> reason == {:shutdown, :memory_pressure} end)
    assert Enum.sort(for({name, _} <- ended, do: name)) == for(n <- 11..20, do: {:low, n})
    refute Enum.any?(events, &match?({:level, :critical, _, _}, &1))
    held = for held <- LimitedVM.call(vm, OOM, :held, []), do: held.id
    assert Enum.sort(held) == for(n <- 11..20, do: {:low, n})
    assert Cgroup.oom_kills(vm.cgroup) == 0
  end

  test "children without memory stay, however old their figures are" do
    # High from the start, and never critical.
    config = [watermarks: [elevated: 0.01, high: 0.02, critical: 0.9]]
    vm = LimitedVM.start!(1024 * @mib, config)
    options = [oom: [shed: {:fraction, 0.5}]]
    workers = for(n <- 1..@count, do: {{:low, n}, [priority: :low]})
    _supervisor = LimitedVM.call(vm, Workload, :start, [workers, options])
    LimitedVM.call(vm, Workload, :await, [[:level], [:high]])

    # The absence of an event needs a wait; a shed would happen within a second.
    until = System.monotonic_time(:millisecond) + 2_000
    looks(vm, until)
    assert LimitedVM.call(vm, OOM, :level, []) == :high
    assert LimitedVM.call(vm, OOM, :held, []) == []
  end

  defp looks(vm, until) do
    LimitedVM.call(vm, :erlang, :send, [OOM.Shed, :look])
    LimitedVM.call(vm, :sys, :get_state, [OOM.Shed])
    if System.monotonic_time(:millisecond) < until, do: looks(vm, until)
  end
end
