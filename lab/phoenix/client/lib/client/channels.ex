defmodule Client.Channels do
  # Clients with a websocket and a channel each, that leaks: clients, leak_kb (a second, of each), seconds. They join
  # and connect again as phoenix.js does.

  alias Client.Socket

  @names ~w(joined channel_errors refused closed unanswered)a

  def run(port, %{"clients" => clients, "leak_kb" => leak_kb, "seconds" => seconds}) do
    counters = :counters.new(length(@names) + 1, [])

    for n <- 1..clients do
      spawn_link(fn ->
        Socket.run(port, "room:#{n}", %{leak_bytes: leak_kb * 1_000}, &count(counters, &1))
      end)

      # As fast as 500 a second.
      if rem(n, 5) == 0, do: Process.sleep(10)
    end

    Process.sleep(seconds * 1_000)
    answers = :counters.get(counters, length(@names) + 1)

    facts =
      for {name, index} <- Enum.with_index(@names, 1), do: {name, :counters.get(counters, index)}

    facts ++ [worst_answer_ms: answers] ++ Client.census(port)
  end

  defp count(counters, {:answered, ms}) do
    slot = length(@names) + 1
    if ms > :counters.get(counters, slot), do: :counters.put(counters, slot, ms)
  end

  defp count(counters, name) do
    :counters.add(counters, Enum.find_index(@names, &(&1 == name)) + 1, 1)
  end
end
