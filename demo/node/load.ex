defmodule Demo.Node.Load do
  @moduledoc false
  # Clients: an even stream of requests to random open connections, at a rate that does not care
  # how the node is. Besides, a modest one to the caches.

  alias Demo.Node.{Cache, Connection, Witness}

  @bytes_per_s 120_000_000
  @tick_ms 5

  @doc "Starts it. Sends `:load_done` to the caller once `bytes` have been offered."
  def start_link(bytes) do
    caller = self()

    spawn_link(fn ->
      request = Connection.request_bytes()
      offer(now(), 0, request, div(bytes, request))
      for id <- 1..1_000, pid = Witness.whereis(:low, id), do: GenServer.cast(pid, :client_left)
      send(caller, :load_done)
    end)
  end

  @doc "Starts the caches' client: a call each 10 ms. A late answer crashes the demo."
  def start_caches_link do
    spawn_link(fn -> ask_caches(0) end)
  end

  defp offer(started_ms, sent, request, wanted) when sent < wanted do
    due = div(@bytes_per_s * (now() - started_ms), request * 1_000)
    for _ <- sent..(due - 1)//1, do: request()
    Process.sleep(@tick_ms)
    offer(started_ms, due, request, wanted)
  end

  defp offer(_started_ms, _sent, _request, _wanted), do: :ok

  # Whose connection is down is turned away, as at a real server.
  defp request do
    with pid when pid != nil <- Witness.whereis(:low, :rand.uniform(1_000)),
         do: GenServer.cast(pid, :request)
  end

  defp ask_caches(n) do
    {:row, _, _} = Cache.get(Witness.whereis(:high, rem(n, 10) + 1), n, 5_000)
    Process.sleep(10)
    ask_caches(n + 1)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
