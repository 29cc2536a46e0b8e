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
  Victims that together hold `need_bytes`, at most `max_count`, lowest priority first and largest
  first within a priority. `min_bytes` is what one must hold to be worth it.

  Within a priority the walk skips to the next as soon as the workers become too small.
  """
  @spec pick(non_neg_integer(), pos_integer(), pos_integer(), (pid() -> boolean())) :: [victim()]
  def pick(need_bytes, max_count, min_bytes, skip?) do
    walk(:ets.first(__MODULE__), need_bytes, max_count, min_bytes, skip?, [])
  end

  defp walk(:"$end_of_table", _need, _count, _min, _skip?, victims), do: Enum.reverse(victims)

  defp walk(_key, need, count, _min, _skip?, victims) when need <= 0 or count == 0,
    do: Enum.reverse(victims)

  # The rest of this priority is smaller still. `[]` is larger than any pid and any number.
  defp walk({rank, minus, _pid}, need, count, min, skip?, victims) when -minus < min,
    do: walk(:ets.next(__MODULE__, {rank, [], []}), need, count, min, skip?, victims)

  defp walk({rank, minus, pid} = key, need, count, min, skip?, victims) do
    next = :ets.next(__MODULE__, key)

    case Workers.lookup(pid) do
      # The row decides: a key left behind by a concurrent change is not a verdict.
      {_, ^rank, bytes, _, state, supervisor, id, _} when bytes == -minus ->
        if skip?.(pid) do
          walk(next, need, count, min, skip?, victims)
        else
          victim = %{
            pid: pid,
            rank: rank,
            bytes: bytes,
            state: state,
            supervisor: supervisor,
            id: id
          }

          walk(next, need - bytes, count - 1, min, skip?, [victim | victims])
        end

      _ ->
        :ets.delete(__MODULE__, key)
        walk(next, need, count, min, skip?, victims)
    end
  end
end
