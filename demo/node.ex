defmodule Demo.Node do
  @moduledoc false
  # The program under the limit, run twice: once below `Supervisor` and once below
  # `OOM.Supervisor`. Reports its state in a line each 200 ms on standard output, `key=value`.

  alias Demo.Node.{Cache, Connection, Ledger, Load, Prober, Witness}

  # The leaks go on until the limit would have been passed so many times over.
  @times 4
  # With the memory of the VM and the connections, half of the limit.
  @cache_share 0.4
  @status_ms 200
  @cache_ms 30_000
  # Shows the node standing still.
  @calm_ms 1_000
  # The load, at its rate, takes a third of this time.
  @load_ms 60_000
  @return_ms 60_000

  def main([mode, limit]) when mode in ["guarded", "unguarded"] do
    limit_bytes = String.to_integer(limit)
    cache_bytes = trunc(limit_bytes * @cache_share)
    end_with_parent()
    # The status has to come through in bad times too.
    Process.flag(:priority, :high)
    {:ok, _} = Witness.start_link()
    {:ok, _} = start(mode, cache_bytes)
    %{alive: %{low: 1_000, normal: 1, protected: 1}} = Witness.counts()
    first = %{protected: Witness.whereis(:protected, 1), cache: Witness.whereis(:normal, 1)}
    {:ok, _} = Prober.start_link()
    Load.start_cache_link()
    if mode == "guarded", do: OOM.subscribe()

    say("ready", [])
    await(:cache, now() + @cache_ms)
    await(:calm, now() + @calm_ms)
    say("load", [])
    Load.start_link(@times * limit_bytes)
    await(:load, now() + @load_ms)
    say("load_over", [])
    # Held workers come back without help.
    await(:return, now() + @return_ms)
    say("result", result(first, Cache.rows(cache_bytes)))
    System.halt(0)
  end

  # Only the three supervisors differ.
  defp start("unguarded", cache_bytes) do
    Supervisor.start_link(
      [
        Ledger,
        supervisor(Supervisor, :connections, connections(), []),
        supervisor(Supervisor, :caches, [{Cache, cache_bytes}], [])
      ],
      strategy: :one_for_one
    )
  end

  defp start("guarded", cache_bytes) do
    {:ok, _} = Application.ensure_all_started(:oom)

    OOM.Supervisor.start_link(
      [
        OOM.child_spec(Ledger, priority: :protected),
        supervisor(OOM.Supervisor, :connections, connections(), oom: [priority: :low]),
        supervisor(OOM.Supervisor, :caches, [{Cache, cache_bytes}], oom: [priority: :normal])
      ],
      strategy: :one_for_one
    )
  end

  defp supervisor(module, id, children, options) do
    options = [strategy: :one_for_one] ++ options
    %{id: id, type: :supervisor, start: {module, :start_link, [children, options]}}
  end

  # Leaking and healthy connections have the same priority, for nobody knows which leak.
  defp connections,
    do: for(id <- 1..Connection.count(), do: Supervisor.child_spec({Connection, id}, id: id))

  defp await(phase, deadline) do
    receive do
      :load_done -> :ok
      {:oom, level, _snapshot} -> say("level", level: level) && await(phase, deadline)
    after
      @status_ms ->
        counts = Witness.counts()
        status(counts)

        cond do
          over?(phase, counts) -> :ok
          now() <= deadline -> await(phase, deadline)
          phase == :calm -> :ok
          true -> say("late", phase: phase)
        end
    end
  end

  defp over?(:cache, _counts), do: Witness.loaded?()

  defp over?(:return, counts),
    do: counts.alive.low == Connection.count() and OOM.level() == :normal

  defp over?(_phase, _counts), do: false

  defp status(counts) do
    say("status",
      level: OOM.level(),
      alive: counts.alive.low,
      held: Connection.count() - counts.alive.low,
      killed: counts.killed,
      lost: counts.lost,
      kills: counts.kills,
      restarted: counts.restarted,
      kept: :counters.get(Witness.kept(), 1) * Connection.export_bytes(),
      worst_us: Prober.worst_us()
    )
  end

  defp result(first, rows) do
    {asked, verdict} = Prober.verdict()
    same? = Witness.whereis(:protected, 1) == first.protected
    counts = Witness.counts()
    silent = for id <- 1..Connection.count(), not answers?(id), do: id
    for {name, reason} <- counts.other, do: say("other", who: name, reason: reason)

    [
      killed: counts.killed,
      lost: counts.lost,
      kills: counts.kills,
      restarted: counts.restarted,
      down: length(silent),
      down_leaking: Enum.count(silent, &Connection.leaks?/1),
      cache: cache(first.cache, rows),
      other: length(counts.other),
      protected: if(same? and verdict == :intact, do: :intact, else: {same?, verdict}),
      asked: asked,
      worst_us: Prober.worst_us()
    ]
  end

  defp cache(first, rows) do
    case Witness.whereis(:normal, 1) do
      nil -> :down
      ^first -> if Cache.sound(first) == rows, do: :intact, else: :changed
      _other -> :restarted
    end
  end

  defp answers?(id) do
    pid = Witness.whereis(:low, id)
    is_pid(pid) and GenServer.call(pid, :ping) == :pong
  end

  # One write for a line, whole or not at all; no spaces within a value.
  defp say(what, pairs) do
    values = Enum.map(pairs, fn {key, value} -> " #{key}=#{value |> text() |> squeeze()}" end)
    IO.write(["@", what, values, "\n"])
  end

  defp text(value) when is_atom(value) or is_integer(value), do: to_string(value)
  defp text(value), do: inspect(value, limit: 5)
  defp squeeze(text), do: String.replace(text, ~r/\s/, "")

  # Leaves nothing behind, whatever happens to the starter.
  defp end_with_parent do
    spawn(fn ->
      IO.read(:line)
      System.halt(3)
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
