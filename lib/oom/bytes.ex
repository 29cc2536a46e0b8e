defmodule OOM.Bytes do
  @moduledoc false
  # Amounts of memory in words, for the log and for alarms.

  @doc "Returns an amount in MiB; `?` for an unknown amount."
  @spec mib(non_neg_integer() | nil) :: String.t()
  def mib(nil), do: "?"
  def mib(bytes), do: "#{Float.round(bytes / 1_048_576, 1)} MiB"
end
