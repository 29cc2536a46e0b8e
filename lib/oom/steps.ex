defmodule OOM.Steps do
  @moduledoc false
  # What a worker may take in one step, which nothing interrupts: no kill takes effect until it is
  # there, so there must be headroom for it before it begins.
  #   * A heap that grows: the collection that is due when it is full copies the young heap, or all of it
  #     (OOM.HeapStep).
  #   * A binary that grows by appending: when its room is used up the VM takes twice as much and
  #     copies it, at 2 GB a second.
  #   * A mailbox on the heap of a worker that was flooded before it could be moved off: the next
  #     collection copies it.

  alias OOM.Workers

  # Less than this is copied in less than a millisecond.
  @matters_bytes 1_048_576
  # So many are looked at; with more than this there are no large ones.
  @looks 1_000

  @doc "What a probe has found a worker to take in such a way."
  @spec put(pid(), non_neg_integer()) :: true
  def put(pid, bytes) when bytes >= @matters_bytes do
    :ets.insert(__MODULE__, {pid, bytes})
    # One that ended while it was looked at would count for ever, and others die for it.
    Workers.member?(pid) or delete(pid)
  end

  def put(pid, _bytes), do: delete(pid)

  @spec delete(pid()) :: true
  def delete(pid), do: :ets.delete(__MODULE__, pid)

  @doc "The step of this worker; 0 where there is none that matters."
  @spec bytes_of(pid()) :: non_neg_integer()
  def bytes_of(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, bytes}] -> bytes
      [] -> 0
    end
  end

  @doc "Whether anyone is about to take a step that matters."
  @spec any?() :: boolean()
  def any?, do: :ets.first(__MODULE__) != :"$end_of_table"

  @doc """
  The largest step, and what the largest take together that may run at the same time: as many as there
  are schedulers.
  """
  @spec largest() :: {largest_bytes :: non_neg_integer(), together_bytes :: non_neg_integer()}
  def largest do
    schedulers = :erlang.system_info(:schedulers_online)

    case fold(:ets.first(__MODULE__), [], schedulers, @looks) do
      [] -> {0, 0}
      [largest | _] = all -> {largest, Enum.sum(all)}
    end
  end

  defp fold(:"$end_of_table", largest, _count, _looks), do: largest
  defp fold(_pid, largest, _count, 0), do: largest

  defp fold(pid, largest, count, looks) do
    largest = Enum.take(Enum.sort([bytes_of(pid) | largest], :desc), count)
    fold(:ets.next(__MODULE__, pid), largest, count, looks - 1)
  end
end
