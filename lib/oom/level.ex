defmodule OOM.Level do
  @moduledoc false
  # The level as one atomic word: a read costs a few nanoseconds and waits for no process. The reference is
  # put into a persistent term once per VM and never replaced. The key is an atom: a tuple is hashed and
  # compared at each read, which took longer than the rest of the read.

  @key __MODULE__
  @levels {:normal, :elevated, :high, :critical}

  @spec setup() :: :ok
  def setup do
    if :persistent_term.get(@key, nil) == nil,
      do: :persistent_term.put(@key, :atomics.new(2, signed: false))

    put(:normal)
  end

  @spec put(OOM.level()) :: :ok
  def put(level), do: :atomics.put(:persistent_term.get(@key), 1, number(level))

  @spec get() :: OOM.level()
  def get do
    case :persistent_term.get(@key, nil) do
      nil -> :normal
      word -> elem(@levels, :atomics.get(word, 1))
    end
  end

  @doc "Returns the number of the present episode of pressure; see OOM.Evidence."
  @spec episode() :: non_neg_integer()
  def episode, do: :atomics.get(:persistent_term.get(@key), 2)

  @spec next_episode() :: :ok
  def next_episode, do: :atomics.add(:persistent_term.get(@key), 2, 1)

  @spec number(OOM.level()) :: 0..3
  def number(:normal), do: 0
  def number(:elevated), do: 1
  def number(:high), do: 2
  def number(:critical), do: 3
end
