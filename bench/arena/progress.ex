defmodule Arena.Progress do
  @moduledoc false
  # How many bytes each culprit has taken so far, by its own count or by that of those who send to
  # it. Read without asking it: a question would hurry a process that is about to end.

  @spec setup(pos_integer()) :: :ok
  def setup(culprits),
    do: :persistent_term.put(__MODULE__, :atomics.new(culprits, signed: false))

  @doc "A step that took nothing tells so by a single byte."
  @spec add(pos_integer(), non_neg_integer()) :: :ok
  def add(_id, bytes) when bytes <= 1, do: :ok
  def add(id, bytes), do: :atomics.add(:persistent_term.get(__MODULE__), id, bytes)

  @spec bytes(pos_integer()) :: non_neg_integer()
  def bytes(id), do: :atomics.get(:persistent_term.get(__MODULE__), id)
end
