defmodule OOM.Plan do
  @moduledoc false
  # All workers that may be killed, in the order of their rank and size: an ordered set of
  # `{rank, -bytes, pid}`. The probes keep it current, so that a choice (OOM.VictimQueue) reads from the
  # front, whatever the number of workers is.

  alias OOM.Workers

  @type figure :: {OOM.Priority.rank(), non_neg_integer()}

  @doc """
  Moves a worker, around the `update` of its row: the new key is there before the row says so, and
  the old one until after. A worker must not be missing even for a moment, or the guard takes one
  that is worth more.
  """
  @spec move(pid(), figure(), figure(), (... -> boolean())) :: :ok
  def move(pid, old, new, update) do
    put(pid, new)

    if update.() do
      if old != new, do: delete(pid, old)
      :ok
    else
      # It ended meanwhile, and its row is gone.
      delete(pid, new)
    end
  end

  @spec put(pid(), figure()) :: :ok
  def put(_pid, {:protected, _bytes}), do: :ok

  def put(pid, {rank, bytes}) do
    :ets.insert(__MODULE__, {{rank, -bytes, pid}})
    :ok
  end

  @spec delete(pid(), figure()) :: :ok
  def delete(pid, {rank, bytes}) do
    :ets.delete(__MODULE__, {rank, -bytes, pid})
    :ok
  end

  @doc "The lowest rank that anybody has, or `nil`."
  @spec first_rank() :: 0..1000 | nil
  def first_rank, do: rank(:ets.first(__MODULE__))

  @doc "The next rank above this one that anybody has, or `nil`."
  @spec next_rank(0..1000) :: 0..1000 | nil
  # `[]` is larger than any pid and any number.
  def next_rank(rank), do: rank(:ets.next(__MODULE__, {rank, [], []}))

  defp rank(:"$end_of_table"), do: nil
  defp rank({rank, _, _}), do: rank

  @doc "The largest of a rank, `{-bytes, pid}`, at most `count`."
  @spec largest(0..1000, pos_integer()) :: [{integer(), pid()}]
  def largest(rank, count), do: forth(:ets.next(__MODULE__, {rank - 1, [], []}), rank, count)

  defp forth({rank, minus, pid} = key, rank, count) when count > 0,
    do: [{minus, pid} | forth(:ets.next(__MODULE__, key), rank, count - 1)]

  defp forth(_key, _rank, _count), do: []

  @doc "What the largest worker of the lowest rank holds; 0 where there is none."
  @spec largest_bytes() :: non_neg_integer()
  def largest_bytes do
    case :ets.first(__MODULE__) do
      {_, minus, _} -> -minus
      :"$end_of_table" -> 0
    end
  end

  @doc "Those of a rank that hold nothing as far as is known, mostly the newest; at most `count`."
  @spec smallest(0..1000, non_neg_integer()) :: [pid()]
  def smallest(rank, count), do: back(:ets.prev(__MODULE__, {rank, [], []}), rank, count)

  defp back({rank, 0, pid} = key, rank, count) when count > 0,
    do: [pid | back(:ets.prev(__MODULE__, key), rank, count - 1)]

  defp back(_key, _rank, _count), do: []

  @doc """
  Drops the keys that match no row. Writers that met leave one behind now and then; the full walk
  is only worth it when there are more keys than workers.
  """
  @spec sweep() :: :ok
  def sweep, do: sweep(:ets.first(__MODULE__))

  @spec size() :: non_neg_integer()
  def size, do: :ets.info(__MODULE__, :size)

  defp sweep(:"$end_of_table"), do: :ok

  defp sweep({rank, minus, pid} = key) do
    next = :ets.next(__MODULE__, key)

    case Workers.lookup(pid) do
      {_, ^rank, bytes, _, _, _, _, _, _} when bytes == -minus -> :ok
      _ -> :ets.delete(__MODULE__, key)
    end

    sweep(next)
  end
end
