defmodule OOM.Reporter.LedgerWords do
  @moduledoc false
  # The ledger in words, for the log.

  import OOM.Bytes, only: [mib: 1]

  alias OOM.Ledger

  # Less growth than this is not told, in bytes/s.
  @told_bytes_per_s 1_048_576

  @parts [
    {:workers, :workers_bytes, "of known workers"},
    {:vm, :vm_bytes, "the VM's own"},
    {:unexplained, :unexplained_bytes, "free or unexplained inside the VM"},
    {:others, :others_bytes, "outside of the VM"}
  ]

  @doc "Returns a sentence on whose the memory is, with a space before; empty without a ledger."
  @spec of(Ledger.t() | nil) :: String.t()
  def of(nil), do: ""

  def of(%Ledger{} = ledger) do
    parts = Enum.map_join(@parts, ", ", &part(&1, ledger))
    ". Whose the memory is: #{parts}. The VM's account: #{account(ledger.vm)}"
  end

  defp part({key, field, words}, ledger),
    do: "#{mib(Map.fetch!(ledger, field))} #{words}#{growth(ledger.growth_bytes_per_s[key])}"

  defp growth(rate) when is_integer(rate) and rate >= @told_bytes_per_s,
    do: " (growing by #{mib(rate)}/s)"

  defp growth(_rate), do: ""

  defp account(vm) do
    vm
    |> Enum.sort_by(fn {_, bytes} -> -bytes end)
    |> Enum.map_join(", ", fn {key, bytes} -> "#{key} #{mib(bytes)}" end)
  end
end
