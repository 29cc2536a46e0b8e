defmodule OOM.HeapCaps.Recap do
  @moduledoc false
  # Sets caps given as a share of the limit anew, after the limit has moved.

  alias OOM.{HeapCaps, Workers}

  # Workers told at once, and the pause after them: 100,000 workers within 5 s.
  @chunk 200
  @pause_ms 10

  @share {:percent_of_limit, :_}

  @doc "Sets all these caps. Slow, so for a separate process."
  @spec all() :: :ok
  def all do
    rows =
      for size <- [@share, %{size: @share, include_shared_binaries: true}],
          do: {{:"$1", size, :_, :_, :_}, [], [:"$1"]}

    HeapCaps |> :ets.select(rows) |> Enum.chunk_every(@chunk) |> recap()
  end

  defp recap([]), do: :ok

  defp recap([pids | rest]) do
    Enum.each(pids, &recap_one/1)
    Process.sleep(@pause_ms)
    recap(rest)
  end

  defp recap_one(pid) do
    with [{_, size, origin, before, _}] <- :ets.lookup(HeapCaps, pid) do
      # A process in a unit has no rank, and keeps its cap, if any.
      rank = Workers.rank(pid)

      bytes =
        if rank == nil and before == nil, do: nil, else: HeapCaps.bytes({size, origin}, rank || 0)

      if bytes != before, do: HeapCaps.change(pid, bytes)
    end

    :ok
  end
end
