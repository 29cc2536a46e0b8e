defmodule Trim.Node do
  @moduledoc false
  # The VM under test in bench/trim.exs.

  @mib 1_048_576
  @cell_bytes 16
  @kept_mib 4
  # Sizes of heaps, in cells, far apart and in no order: 0.3 to 40 MB.
  @sizes [60_000, 1_400_000, 250_000, 20_000, 2_500_000, 500_000, 120_000, 900_000]

  @doc "Adds live data; returns the MiB held."
  def grow(:list), do: ask(:list, &list/2)
  def grow(:sawtooth), do: ask(:sawtooth, &sawtooth/2)

  @doc "Trims from now on, at every level."
  def keep_trimming(every_ms) do
    # No burst of work may keep the process from its turn.
    :erlang.spawn_opt(fn -> trim_every(every_ms) end, priority: :max)
    :ok
  end

  @doc "Builds and drops a list of 300 MB."
  def build_and_drop, do: build(div(300_000_000, @cell_bytes))

  @doc "Returns the heaps per second built and dropped by a process per scheduler, with a trim at each interval."
  def heaps_per_s(ms, every_ms) do
    parent = self()
    trimmer = every_ms && spawn_link(fn -> trim_every(every_ms) end)
    until = now_us() + ms * 1_000
    count = System.schedulers_online()
    for i <- 1..count, do: spawn_link(fn -> send(parent, {:built, build_until(until, i, 0)}) end)
    built = for(_ <- 1..count, do: receive(do: ({:built, n} -> n))) |> Enum.sum()

    if trimmer do
      Process.unlink(trimmer)
      Process.exit(trimmer, :kill)
    end

    built * 1_000 / ms
  end

  @doc "Makes so many calls on a scheduler; returns `{us, MiB given back}` of each."
  def call_us(:busy, count) do
    until = now_us() + 600_000_000

    builders =
      for i <- 1..System.schedulers_online(), do: spawn(fn -> build_until(until, i, 0) end)

    calls = call_us(:empty, count)
    for pid <- builders, do: Process.exit(pid, :kill)
    calls
  end

  def call_us(how, count) do
    for _ <- 1..count do
      if how == :full, do: build(4_000_000, 1)
      Process.sleep(5)
      parent = self()

      :erlang.spawn_opt(
        fn ->
          before = rss_bytes()
          began = System.monotonic_time(:nanosecond)
          :ok = OOM.Native.trim()
          ns = System.monotonic_time(:nanosecond) - began
          send(parent, {:trimmed, {ns / 1_000, (before - rss_bytes()) / @mib}})
        end,
        scheduler: 1,
        priority: :max
      )

      receive(do: ({:trimmed, call} -> call))
    end
  end

  # A process that keeps one list.
  defp list(count, kept) do
    receive do
      {:grow, from} ->
        kept = cells(div(@mib, @cell_bytes), kept)
        send(from, {:grown, count + 1})
        list(count + 1, kept)
    end
  end

  # Keeps processes of some MiB each, with a heap built and dropped beside each.
  defp sawtooth(count, _) do
    receive do
      {:grow, from} ->
        build(Enum.at(@sizes, rem(count, length(@sizes))))
        parent = self()
        pid = spawn(fn -> keep(cells(div(@kept_mib * @mib, @cell_bytes), []), parent) end)
        receive(do: ({:kept, ^pid} -> :ok))
        send(from, {:grown, (count + 1) * @kept_mib})
        sawtooth(count + 1, [])
    end
  end

  defp keep(cells, parent) do
    # Exactly the live data, and no garbage.
    :erlang.garbage_collect()
    send(parent, {:kept, self()})
    receive(do: (:stop -> length(cells)))
  end

  defp ask(name, loop) do
    pid = Process.whereis(name) || spawn(fn -> loop.(0, []) end)
    unless Process.whereis(name), do: Process.register(pid, name)
    send(pid, {:grow, self()})
    receive(do: ({:grown, mib} -> mib))
  end

  defp build_until(until, seed, built) do
    if now_us() < until do
      build(Enum.at(@sizes, rem(seed + built, length(@sizes))))
      build_until(until, seed, built + 1)
    else
      built
    end
  end

  # In a separate process, which ends; on a given scheduler, or any.
  defp build(cells, scheduler \\ 0) do
    {pid, ref} =
      :erlang.spawn_opt(fn -> length(cells(cells, [])) end, [:monitor, scheduler: scheduler])

    receive(do: ({:DOWN, ^ref, _, ^pid, _} -> :ok))
  end

  defp cells(0, list), do: list
  defp cells(n, list), do: cells(n - 1, [n | list])

  defp trim_every(ms) do
    OOM.Trim.start()
    Process.sleep(ms)
    trim_every(ms)
  end

  defp rss_bytes do
    [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1_024
  end

  defp now_us, do: System.monotonic_time(:microsecond)
end
