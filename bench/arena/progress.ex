defmodule Arena.Progress do
  @moduledoc false
  # Bytes taken so far by each culprit, counted by the culprit or by its senders. Read without
  # asking the process: a question would hurry a process about to end.

  @spec setup(pos_integer()) :: :ok
  def setup(culprits),
    do: :persistent_term.put(__MODULE__, :atomics.new(culprits, signed: false))

  @doc "Counts `bytes`. A single byte marks a step that took nothing."
  @spec add(pos_integer(), non_neg_integer()) :: :ok
  def add(_id, bytes) when bytes <= 1, do: :ok
  def add(id, bytes), do: :atomics.add(:persistent_term.get(__MODULE__), id, bytes)

  @spec bytes(pos_integer()) :: non_neg_integer()
  def bytes(id), do: :atomics.get(:persistent_term.get(__MODULE__), id)
end
