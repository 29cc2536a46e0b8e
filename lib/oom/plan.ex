defmodule OOM.Plan do
  @moduledoc false
  # Who dies first: an ordered set of `{rank, -bytes, pid}`. It is kept current in calm time by the
  # probes, so that the reaction reads the next victim off the front, whatever the number of
  # workers is.

  alias OOM.Workers

  @type figure :: {OOM.Priority.rank(), non_neg_integer()}
  @type victim :: %{
          pid: pid(),
          rank: 0..1000,
          bytes: non_neg_integer(),
          state: Workers.state(),
          supervisor: pid() | nil,
          id: term()
        }

  @doc """
  Moves a worker, around the `update` of its row: the new key is there before the row says so, and
  the old one until after. A worker must not be missing even for a moment, or the guard takes one
  that is worth more.
  """
  @spec move(pid(), figure(), figure(), (... -> boolean())) :: :ok
  def move(pid, old, {rank, bytes} = new, update) do
    if rank != :protected, do: :ets.insert(__MODULE__, {{rank, -bytes, pid}})

    if update.() do
      if old != new, do: delete(pid, old)
      :ok
    else
      # It ended meanwhile, and its row is gone.
      delete(pid, new)
    end
  end

  @spec delete(pid(), figure()) :: :ok
  def delete(pid, {rank, bytes}) do
    :ets.delete(__MODULE__, {rank, -bytes, pid})
    :ok
  end

  # A figure this old tells nothing of a worker that may have grown since.
  @fresh_ms 100

  @doc """
  Victims of one priority that together hold `need_bytes`, at most `max_count`: of the lowest
  priority that has any, the largest first.

  `min_bytes` is what one must hold to be worth it. One that is known to hold less is left alone,
  and the next priority is looked at. Where a figure is too old to know, `unknown` says what to do
  before that: `:take` the worker, or `:wait` for a fresh figure and pick nobody further.

  `ceiling` is the highest rank that may be picked. While victims of one priority are on their
  way, it keeps the next priority out: no worker ends before one that is worth less.
  """
  @spec pick(integer(), pos_integer(), pos_integer(), integer(), :take | :wait, 0..1000) ::
          [victim()]
  def pick(need_bytes, max_count, min_bytes, now_ms, unknown \\ :take, ceiling \\ 1000) do
    limits = %{
      need: need_bytes,
      count: max_count,
      min: min_bytes,
      now_ms: now_ms,
      looks: max_count,
      unknown: unknown
    }

    walk(:ets.first(__MODULE__), limits, ceiling, [])
  end

  defp walk(:"$end_of_table", _limits, _ceiling, victims), do: Enum.reverse(victims)

  defp walk({rank, _, _}, %{need: need, count: count}, ceiling, victims)
       when need <= 0 or count == 0 or rank > ceiling,
       do: Enum.reverse(victims)

  # The rest of this priority is smaller still: a look at some of them, and on to the next.
  # `[]` is larger than any pid and any number.
  defp walk({rank, minus, _pid}, %{min: min, looks: 0} = limits, ceiling, victims)
       when -minus < min do
    next = :ets.next(__MODULE__, {rank, [], []})
    walk(next, %{limits | looks: limits.count}, ceiling, victims)
  end

  defp walk({rank, minus, pid} = key, limits, ceiling, victims) do
    small? = -minus < limits.min
    limits = if small?, do: %{limits | looks: limits.looks - 1}, else: limits
    next = :ets.next(__MODULE__, key)

    case Workers.lookup(pid) do
      {_, ^rank, bytes, sampled_ms, :fresh, _, _, _}
      when small? and bytes == -minus and limits.now_ms - sampled_ms < @fresh_ms ->
        walk(next, limits, ceiling, victims)

      {_, ^rank, bytes, _, _, _, _, _}
      when small? and bytes == -minus and limits.unknown == :wait ->
        Enum.reverse(victims)

      {_, ^rank, bytes, _, state, supervisor, id, _} when bytes == -minus ->
        limits = %{limits | need: limits.need - bytes, count: limits.count - 1}

        victim = %{
          pid: pid,
          rank: rank,
          bytes: bytes,
          state: state,
          supervisor: supervisor,
          id: id
        }

        walk(next, limits, rank, [victim | victims])

      # The row decides: this key is just being replaced, and the worker has another.
      {_, _, _, _, _, _, _, _} ->
        walk(next, limits, ceiling, victims)

      nil ->
        :ets.delete(__MODULE__, key)
        walk(next, limits, ceiling, victims)
    end
  end

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
      {_, ^rank, bytes, _, _, _, _, _} when bytes == -minus -> :ok
      _ -> :ets.delete(__MODULE__, key)
    end

    sweep(next)
  end
end
