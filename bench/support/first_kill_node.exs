defmodule FirstKill.Node do
  @moduledoc false
  # The VM under test in bench/first_kill.exs.

  @large_bytes 128 * 1_048_576
  @step_bytes 4 * 1_048_576
  @step_ms 10
  # Byte by byte a step takes 100 ms on a busy machine, and the limit is never reached.
  @piece :binary.copy(<<1>>, 65_536)
  # After the first victim of a crossing, for further victims.
  @linger_ms 300
  # The remaining room is leaked in about a second.
  @patience_ms 30_000

  @doc "Starts so many small workers, and a large one for each crossing; all workers are in the plan."
  def start(workers, crossings) do
    parent = self()
    spawn(fn -> table(parent) end)
    receive(do: (:table -> :ok))

    for size <- List.duplicate(0, workers) ++ List.duplicate(@large_bytes, crossings + 2) do
      pid = spawn(fn -> work(size, parent) end)
      receive(do: ({:ready, ^pid} -> :ok))
      if size > 0, do: remember(pid)
    end

    OOM.Accountant.pass()
  end

  @doc "Waits until the remains of a crossing are gone."
  def settle do
    unless OOM.level() == :normal do
      Process.sleep(10)
      settle()
    end
  end

  @doc "Leaks until the first worker has ended; returns the times observed."
  def cross do
    workers = OOM.Workers.count()
    pick_us = pick_us()
    parent = self()
    {observer, ref} = :erlang.spawn_opt(fn -> observe(parent) end, [:monitor, priority: :max])
    receive(do: (:observing -> :ok))
    leak = spawn(fn -> leak([]) end)

    # Left alone the leak would go on until the largest workers are gone, and then the VM.
    seen =
      receive do
        {:seen, seen} -> seen
        {:DOWN, ^ref, _, ^observer, why} -> Process.exit(leak, :kill) && exit(why)
      after
        @patience_ms -> Process.exit(leak, :kill) && exit(:nobody_was_killed)
      end

    Process.exit(leak, :kill)
    Process.sleep(@linger_ms)
    receive(do: ({:DOWN, ^ref, _, ^observer, _} -> :ok))
    victims = workers - OOM.Workers.count()
    large = Enum.count(large(), &(not Process.alive?(&1)))
    for pid <- large(), not Process.alive?(pid), do: forget(pid)
    Map.merge(seen, %{pick_us: pick_us, victims: victims, small: victims - large})
  end

  @doc "Returns the time of ranking without a plan, at top priority, in us."
  def rank do
    parent = self()

    :erlang.spawn_opt(
      fn ->
        began = now()

        largest =
          Enum.reduce(Process.list(), {0, nil}, fn pid, most ->
            case Process.info(pid, :memory) do
              {:memory, bytes} -> max({bytes, pid}, most)
              nil -> most
            end
          end)

        send(parent, {:ranked, (now() - began) / 1_000, largest})
      end,
      priority: :max
    )

    receive(do: ({:ranked, us, _} -> us))
  end

  @doc false
  def wait(kept), do: receive(do: (:stop -> kept))

  # A worker holds a binary off its heap, or nothing.
  defp work(size, parent) do
    :ok = OOM.set_priority(:low)
    kept = :binary.copy(@piece, div(size, byte_size(@piece)))
    send(parent, {:ready, self()})
    :erlang.hibernate(__MODULE__, :wait, [kept])
  end

  defp leak(kept) do
    Process.sleep(@step_ms)
    leak([:binary.copy(@piece, div(@step_bytes, byte_size(@piece))) | kept])
  end

  # Without taking anything from the plan.
  defp pick_us do
    limits = OOM.VictimQueue.limits(@large_bytes, 64, System.monotonic_time(:millisecond))

    began = now()
    {[_ | _], _why} = OOM.VictimQueue.choose(limits)
    (now() - began) / 1_000
  end

  defp observe(parent) do
    guard = Process.whereis(OOM.Guard)
    for pid <- large(), do: Process.monitor(pid)
    :erlang.trace(guard, true, [:receive, :procs, :monotonic_timestamp])
    send(parent, :observing)
    seen = observe(guard, %{message_ns: nil, critical_ns: nil, due_ns: nil, spawned: %{}})
    :erlang.trace(guard, false, [:all])
    send(parent, {:seen, seen})
  end

  defp observe(guard, seen) do
    receive do
      {:trace_ts, ^guard, :receive, {:oom_watch, what, report}, at} ->
        critical? = what == :level and report.level == :critical
        critical = if critical?, do: seen.critical_ns || ns(at), else: seen.critical_ns
        due = if due?(report), do: seen.due_ns || ns(at), else: seen.due_ns
        observe(guard, %{seen | message_ns: ns(at), critical_ns: critical, due_ns: due})

      # New figures are in, from the accountant or the throttle, and the guard looks again: no
      # message of the watcher began this look.
      {:trace_ts, ^guard, :receive, :look, at} ->
        observe(guard, %{seen | message_ns: ns(at)})

      {:trace_ts, ^guard, :receive, {:look, _throttle, _standing}, at} ->
        observe(guard, %{seen | message_ns: ns(at)})

      {:trace_ts, ^guard, :spawn, _pid, {OOM.Kill, _, [_row, victim | _]}, at} ->
        observe(guard, put_in(seen.spawned[victim], {seen.message_ns, ns(at)}))

      {:DOWN, _, :process, victim, reason} ->
        down = now()
        {:shutdown, :memory_pressure} = reason
        # The trace may be a moment behind.
        %{spawned: %{^victim => {message, spawned}}} = seen = await_spawn(guard, seen, victim)
        critical = seen.critical_ns || message

        %{
          spawned_us: (spawned - message) / 1_000,
          down_us: (down - message) / 1_000,
          critical_us: (down - critical) / 1_000,
          due_us: (down - (seen.due_ns || message)) / 1_000
        }

      _other ->
        observe(guard, seen)
    end
  end

  # Nobody knows the grower, and workers of lower priority pay from here on.
  defp due?(%{headroom_bytes: headroom, critical_headroom_bytes: floor}),
    do: headroom * 4 < floor * OOM.Limits.soon_floor_quarters()

  defp await_spawn(_guard, %{spawned: spawned} = seen, victim)
       when is_map_key(spawned, victim),
       do: seen

  defp await_spawn(guard, seen, victim) do
    receive do
      {:trace_ts, ^guard, :spawn, _pid, {OOM.Kill, _, [_row, pid | _]}, at} ->
        seen = put_in(seen.spawned[pid], {seen.message_ns, ns(at)})
        await_spawn(guard, seen, victim)
    end
  end

  # A change of a persistent term would collect all processes.
  defp large, do: for({pid} <- :ets.tab2list(__MODULE__), do: pid)
  defp remember(pid), do: :ets.insert(__MODULE__, {pid})
  defp forget(pid), do: :ets.delete(__MODULE__, pid)

  defp table(parent) do
    :ets.new(__MODULE__, [:named_table, :public])
    send(parent, :table)
    Process.sleep(:infinity)
  end

  defp ns(native), do: System.convert_time_unit(native, :native, :nanosecond)
  defp now, do: System.monotonic_time(:nanosecond)
end
