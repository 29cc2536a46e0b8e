defmodule OOM.HeapCaps.Recap do
  @moduledoc false
  # The limit has moved: all whose cap is a share of it get theirs anew.

  alias OOM.{HeapCaps, Workers}

  # So many are told at once, and the pause after them: 100,000 workers within 5 s.
  @chunk 200
  @pause_ms 10

  @share {:percent_of_limit, :_}

  @doc "Takes its time; for a process of its own."
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
      # What is in a unit has no rank of its own, and keeps what it has: a cap or none.
      rank = Workers.rank(pid)

      bytes =
        if rank == nil and before == nil, do: nil, else: HeapCaps.bytes({size, origin}, rank || 0)

      if bytes != before, do: HeapCaps.change(pid, bytes)
    end

    :ok
  end
end
