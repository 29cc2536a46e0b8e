defmodule OOM.Plan do
  @moduledoc false
  # All workers that may be killed, in the order of rank and size: an ordered set of `{rank, -bytes, pid}`.
  # The probes keep the plan current, so a choice (OOM.VictimQueue) reads from the front, whatever the number
  # of workers.

  alias OOM.Workers

  @type figure :: {OOM.Priority.rank(), non_neg_integer()}

  @doc """
  Moves a worker, around the `update` of its row: the new key is there before the row says so, and the old key
  stays until after. A worker must not be missing even for a moment, or the guard takes a worker of a higher
  rank.
  """
  @spec move(pid(), figure(), figure(), (... -> boolean())) :: :ok
  def move(pid, old, new, update) do
    put(pid, new)

    if update.() do
      if old != new, do: delete(pid, old)
      :ok
    else
      # The worker ended meanwhile, and its row is gone.
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

  @doc "Returns the lowest rank in the plan, or `nil`."
  @spec first_rank() :: 0..1000 | nil
  def first_rank, do: rank(:ets.first(__MODULE__))

  @doc "Returns the next rank above this one in the plan, or `nil`."
  @spec next_rank(0..1000) :: 0..1000 | nil
  # `[]` is larger than any pid and any number.
  def next_rank(rank), do: rank(:ets.next(__MODULE__, {rank, [], []}))

  defp rank(:"$end_of_table"), do: nil
  defp rank({rank, _, _}), do: rank

  @doc "Returns the largest workers of a rank, `{-bytes, pid}`, at most `count`."
  @spec largest(0..1000, pos_integer()) :: [{integer(), pid()}]
  def largest(rank, count), do: forth(:ets.next(__MODULE__, {rank - 1, [], []}), rank, count)

  defp forth({rank, minus, pid} = key, rank, count) when count > 0,
    do: [{minus, pid} | forth(:ets.next(__MODULE__, key), rank, count - 1)]

  defp forth(_key, _rank, _count), do: []

  @doc "Returns the memory of the largest worker of the lowest rank, in bytes; 0 for an empty plan."
  @spec largest_bytes() :: non_neg_integer()
  def largest_bytes do
    case :ets.first(__MODULE__) do
      {_, minus, _} -> -minus
      :"$end_of_table" -> 0
    end
  end

  @doc "Returns workers of a rank without a known figure, mostly the newest; at most `count`."
  @spec smallest(0..1000, non_neg_integer()) :: [pid()]
  def smallest(rank, count), do: back(:ets.prev(__MODULE__, {rank, [], []}), rank, count)

  defp back({rank, 0, pid} = key, rank, count) when count > 0,
    do: [pid | back(:ets.prev(__MODULE__, key), rank, count - 1)]

  defp back(_key, _rank, _count), do: []

  @doc """
  Drops the keys that match no row. Concurrent writers leave a key behind now and then; the full walk is only
  worth the time when there are more keys than workers.
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
