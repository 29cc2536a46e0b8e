defmodule OOM.Bookkeeper do
  @moduledoc false
  # Makes the ledger (OOM.Ledger). A caller makes a new ledger where the last ledger no longer holds, and stores
  # the new ledger for later callers.

  alias OOM.{Ledger, Owned, Tables, Usage}

  # A ledger holds for this time in ms, and for so many times the time it took to make.
  @valid_ms 1_000
  @valid_times 50
  # Ledgers closer together tell no growth, in ms.
  @growth_ms 500

  @doc "Returns the present ledger for a report of the watcher; `nil` where memory is not known."
  @spec ledger(map()) :: Ledger.t() | nil
  def ledger(%{working_set_bytes: used, rss_bytes: rss})
      when is_integer(used) and is_integer(rss) do
    now = now()

    case Tables.ledger() do
      {ledger, at_ms, until_ms} when now < until_ms -> %{ledger | age_ms: now - at_ms}
      last -> make(used, rss, last, now)
    end
  end

  def ledger(_unknown), do: nil

  defp make(used, rss, last, began_ms) do
    ledger = used |> Ledger.new(rss, workers(), :erlang.memory()) |> grown(last, began_ms)
    took_ms = now() - began_ms
    Tables.put_ledger({ledger, began_ms, began_ms + max(@valid_ms, @valid_times * took_ms)})
    ledger
  end

  defp grown(ledger, {before, at_ms, _until}, now_ms) when now_ms - at_ms >= @growth_ms,
    do: Ledger.grown(ledger, before, now_ms - at_ms)

  defp grown(ledger, _last, _now_ms), do: ledger

  defp workers do
    all = Usage.fold(fn sum, {_pid, bytes, _supervisor} -> sum + bytes end, 0)
    owned = for kind <- Owned.kinds(), into: %{}, do: {kind, Owned.sum(kind)}
    # The tables, ports and children may have been read again since.
    Map.put(owned, :own, max(all - (owned |> Map.values() |> Enum.sum()), 0))
  end

  defp now, do: System.monotonic_time(:millisecond)
end
