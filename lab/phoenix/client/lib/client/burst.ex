defmodule Client.Burst do
  # Many clients post work at once, each again as soon as it has its answer: clients, mb, ms (the time that a
  # request takes), seconds.

  alias Client.Request

  def run(port, %{"clients" => clients, "mb" => mb, "ms" => ms, "seconds" => seconds}) do
    body = :binary.copy(<<7>>, mb * 1_000_000)
    until_ms = System.monotonic_time(:millisecond) + seconds * 1_000
    path = "/api/work?ms=#{ms}"
    loops = for _ <- 1..clients, do: Task.async(fn -> loop(port, path, body, until_ms, %{}) end)

    counts =
      loops
      |> Task.await_many(:infinity)
      |> Enum.reduce(&Map.merge(&1, &2, fn _, a, b -> a + b end))

    [requests: counts |> Map.values() |> Enum.sum()] ++
      Enum.sort(counts) ++ Client.census(port)
  end

  defp loop(port, path, body, until_ms, counts) do
    if System.monotonic_time(:millisecond) < until_ms do
      outcome = outcome(Request.post(port, path, body, 10_000))
      # A client that was refused or cut off comes again, but not at once.
      if outcome != "200", do: Process.sleep(100)
      loop(port, path, body, until_ms, Map.update(counts, outcome, 1, &(&1 + 1)))
    else
      counts
    end
  end

  defp outcome({:ok, status, _body}), do: to_string(status)
  defp outcome({:error, :timeout}), do: "timeout"
  defp outcome({:error, %{reason: reason}}) when is_atom(reason), do: to_string(reason)
  defp outcome({:error, _}), do: "error"
end
