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

  @spec move(pid(), figure(), figure()) :: :ok
  def move(pid, old, {rank, bytes} = new) do
    if old != new, do: delete(pid, old)
    if rank != :protected, do: :ets.insert(__MODULE__, {{rank, -bytes, pid}})
    :ok
  end

  @spec delete(pid(), figure()) :: :ok
  def delete(pid, {rank, bytes}) do
    :ets.delete(__MODULE__, {rank, -bytes, pid})
    :ok
  end

  @doc """
  Victims of one priority that together hold `need_bytes`, at most `max_count`: of the lowest
  priority that has any, the largest first. `min_bytes` is what one must hold to be worth it.

  `ceiling` is the highest rank that may be picked. While victims of one priority are on their
  way, it keeps the next priority out: no worker ends before one that is worth less.
  """
  @spec pick(non_neg_integer(), pos_integer(), pos_integer(), 0..1000) :: [victim()]
  def pick(need_bytes, max_count, min_bytes, ceiling \\ 1000),
    do: walk(:ets.first(__MODULE__), need_bytes, max_count, min_bytes, ceiling, [])

  defp walk(:"$end_of_table", _need, _count, _min, _ceiling, victims), do: Enum.reverse(victims)

  defp walk({rank, _, _}, need, count, _min, ceiling, victims)
       when need <= 0 or count == 0 or rank > ceiling,
       do: Enum.reverse(victims)

  # The rest of this priority is smaller still. `[]` is larger than any pid and any number.
  defp walk({rank, minus, _pid}, need, count, min, ceiling, victims) when -minus < min,
    do: walk(:ets.next(__MODULE__, {rank, [], []}), need, count, min, ceiling, victims)

  defp walk({rank, minus, pid} = key, need, count, min, ceiling, victims) do
    next = :ets.next(__MODULE__, key)

    case Workers.lookup(pid) do
      # The row decides: a key left behind by a concurrent change is not a verdict.
      {_, ^rank, bytes, _, state, supervisor, id, _} when bytes == -minus ->
        victim = %{
          pid: pid,
          rank: rank,
          bytes: bytes,
          state: state,
          supervisor: supervisor,
          id: id
        }

        walk(next, need - bytes, count - 1, min, rank, [victim | victims])

      _ ->
        :ets.delete(__MODULE__, key)
        walk(next, need, count, min, ceiling, victims)
    end
  end
end
