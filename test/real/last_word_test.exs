defmodule OOM.Real.LastWordTest do
  @moduledoc false
  # Workers asked to shrink before a kill, on the real thing.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, Workload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @mib 1_048_576
  @limit 256 * @mib
  @config [backoff: [initial_ms: 50, max_ms: 400]]

  # A cache of 60 MiB of priority :low, a small cache that is never the largest, and a slowly
  # growing worker of priority :normal: the cache would pay for its growth.
  defp start(options) do
    vm = LimitedVM.start!(@limit, @config)

    workers = [
      {{:cache, 1}, [priority: :low, handle_pressure: true] ++ options},
      {{:small, 1}, [priority: :low, handle_pressure: true, shrinks: true]},
      {{:ballast, 1}, [handle_pressure: true, priority: :normal]}
    ]

    supervisor = LimitedVM.call(vm, Workload, :start, [workers, []])
    fill(vm, supervisor, :cache, 60, 12)
    fill(vm, supervisor, :small, 1, 12)
    # Less headroom needs slower growth, or the level rises.
    for {left, every_ms} <- [{110, 15}, {75, 25}] do
      headroom = LimitedVM.call(vm, OOM, :snapshot, []).headroom_bytes
      fill(vm, supervisor, :ballast, div(headroom, @mib) - left, every_ms)
    end

    {vm, supervisor}
  end

  # Half a MiB each 12 to 25 ms: 40 to 20 MiB/s.
  defp fill(vm, supervisor, group, mib, every_ms) do
    args = [supervisor, group, div(@mib, 2), 2 * mib, every_ms]
    :ok = LimitedVM.call(vm, Workload, :fill, args)
    assert LimitedVM.call(vm, OOM, :level, []) in [:normal, :elevated]
  end

  defp grow(vm, supervisor, done) do
    args = [supervisor, :ballast, :binary, 200_000, 20, done]
    LimitedVM.call(vm, Workload, :grow_until, args)
  end

  test "a worker that drops its cache when asked is not killed, nor is any neighbour" do
    {vm, supervisor} = start(shrinks: true)
    assert {:done, _} = grow(vm, supervisor, {:asked, :cache})
    LimitedVM.call(vm, Workload, :await, [[:level], [:normal]])
    events = LimitedVM.call(vm, Workload, :events, [])

    assert [pressure] = for({:asked, {:cache, 1}, pressure, _} <- events, do: pressure)
    assert pressure.level in [:high, :critical]
    assert pressure.bytes >= 60 * @mib
    assert pressure.need_bytes > 0
    # Only as many as needed, and only the lowest priority.
    assert [] = for({:asked, {name, _}, _, _} when name != :cache <- events, do: name)
    assert [] = for({:ended, name, _, _} <- events, do: name)
    [cache] = LimitedVM.call(vm, Workload, :pids, [supervisor, :cache])
    assert LimitedVM.call(vm, GenServer, :call, [cache, :state]) == 0
  end

  test "a worker that keeps its cache is killed" do
    {vm, supervisor} = start(shrinks: false)
    assert {:done, events} = grow(vm, supervisor, {:ended, :cache, 1})
    assert [_ | _] = for({:asked, {:cache, 1}, _, _} <- events, do: :asked)

    assert [{:cache, {:shutdown, :memory_pressure}}] =
             for({:ended, {group, _}, reason, _} <- events, do: {group, reason})

    assert Cgroup.oom_kills(vm.cgroup) == 0
  end
end
