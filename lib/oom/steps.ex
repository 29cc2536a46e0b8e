defmodule OOM.Steps do
  @moduledoc false
  # What a worker may take in one step, which nothing interrupts: no kill takes effect until it is
  # there, so there must be headroom for it before it begins.
  #   * A binary that grows by appending: when its room is used up the VM takes twice as much and
  #     copies it, at 2 GB a second.
  #   * A mailbox on the heap of a worker that was flooded before it could be moved off: the next
  #     collection copies it.

  alias OOM.Workers

  # Less than this is copied in less than a millisecond.
  @matters_bytes 1_048_576

  @doc "What a probe has found a worker to hold in such a way."
  @spec put(pid(), non_neg_integer()) :: true
  def put(pid, bytes) when bytes >= @matters_bytes do
    :ets.insert(__MODULE__, {pid, bytes})
    # One that ended while it was looked at would count for ever, and others die for it.
    Workers.member?(pid) or delete(pid)
  end

  def put(pid, _bytes), do: delete(pid)

  @spec delete(pid()) :: true
  def delete(pid), do: :ets.delete(__MODULE__, pid)

  @doc "What all of them may take in one step each. Those of many workers will not do it at once."
  @spec bytes() :: non_neg_integer()
  def bytes, do: sum(:ets.first(__MODULE__), 0, 100)

  defp sum(:"$end_of_table", bytes, _count), do: bytes
  defp sum(_pid, bytes, 0), do: bytes

  defp sum(pid, bytes, count) do
    held =
      case :ets.lookup(__MODULE__, pid) do
        [{_, held}] -> held
        [] -> 0
      end

    sum(:ets.next(__MODULE__, pid), bytes + held, count - 1)
  end
end
