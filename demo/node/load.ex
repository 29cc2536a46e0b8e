defmodule Demo.Node.Load do
  @moduledoc false
  # Clients: an even stream of exports to the leaking connections, at a rate independent of the
  # node's state, and beside it requests to all connections and to the cache.

  alias Demo.Node.{Cache, Connection, Witness}

  @bytes_per_s 120_000_000
  @browse_per_tick 5
  @tick_ms 5
  @cache_ms 10

  @doc "Starts the clients. Sends `:load_done` to the caller once exports of `bytes` have been offered."
  def start_link(bytes) do
    caller = self()

    spawn_link(fn ->
      export = Connection.export_bytes()
      offer(now(), 0, export, div(bytes, export))
      for id <- 1..Connection.count(), do: cast(id, :client_left)
      send(caller, :load_done)
    end)
  end

  @doc "Starts the cache's client: a call each 10 ms. A late answer crashes the demo."
  def start_cache_link do
    spawn_link(fn -> ask_cache(0) end)
  end

  defp offer(started_ms, sent, export, wanted) when sent < wanted do
    due = div(@bytes_per_s * (now() - started_ms), export * 1_000)
    for _ <- sent..(due - 1)//1, do: cast(exporter(), :export)
    for n <- 1..@browse_per_tick, do: cast(:rand.uniform(Connection.count()), {:browse, n})
    Process.sleep(@tick_ms)
    offer(started_ms, due, export, wanted)
  end

  defp offer(_started_ms, _sent, _export, _wanted), do: :ok

  # A leaking connection.
  defp exporter do
    leaking = Connection.leaking()
    :rand.uniform(leaking) * div(Connection.count(), leaking)
  end

  # A client whose connection is down is turned away, as at a real server.
  defp cast(id, request) do
    with pid when pid != nil <- Witness.whereis(:low, id), do: GenServer.cast(pid, request)
  end

  defp ask_cache(n) do
    true = cache_sound?(Witness.whereis(:normal, 1), n)
    Process.sleep(@cache_ms)
    ask_cache(n + 7)
  end

  # A cache that is down cannot be asked; a loss shows at the end.
  defp cache_sound?(nil, _n), do: true

  defp cache_sound?(pid, n) do
    Cache.sound?(pid, n, 5_000)
  catch
    :exit, {reason, _} when reason != :timeout -> true
  end

  defp now, do: System.monotonic_time(:millisecond)
end
