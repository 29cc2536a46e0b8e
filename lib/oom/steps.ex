defmodule OOM.Steps do
  @moduledoc false
  # The memory a worker may take in one step. Nothing interrupts a step: a kill takes effect only after the
  # memory is taken, so there must be headroom before the step begins.
  #   * A growing heap: the collection of a full heap copies the young heap, or the whole heap (OOM.HeapStep).
  #   * A binary that grows by appending: once its room is used up, the VM allocates twice the size and copies
  #     the binary, at 2 GB a second.
  #   * A mailbox on the heap, in a worker that was flooded before the mailbox could be moved off: the next
  #     collection copies the mailbox.

  alias OOM.{Snapshot, Workers}

  # A smaller step takes less than a millisecond.
  @matters_bytes 1_048_576
  # Steps looked at. Where more workers have a step, none of the steps is large.
  @looks 1_000

  @doc """
  Stores the step that a probe has found for a worker, in bytes; a step that does not matter is deleted.
  """
  @spec put(pid(), non_neg_integer()) :: true
  def put(pid, bytes) when bytes >= @matters_bytes do
    :ets.insert(__MODULE__, {pid, bytes})

    # The step of a worker that ended during the look would count for ever, and others would die for the step.
    Workers.member?(pid) or delete(pid)
  end

  def put(pid, _bytes), do: delete(pid)

  @spec delete(pid()) :: true
  def delete(pid), do: :ets.delete(__MODULE__, pid)

  @doc "Returns the step of a worker in bytes; 0 where no step matters."
  @spec bytes_of(pid()) :: non_neg_integer()
  def bytes_of(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, bytes}] -> bytes
      [] -> 0
    end
  end

  @doc "Returns the least step that matters, in bytes."
  @spec matters_bytes() :: pos_integer()
  def matters_bytes, do: @matters_bytes

  @doc "Tells whether a step of so many bytes leaves half of the floor; `true` where no headroom is known."
  @spec fits?(non_neg_integer()) :: boolean()
  def fits?(bytes) do
    case Snapshot.now() do
      %{headroom_bytes: headroom, critical_headroom_bytes: floor}
      when is_integer(headroom) and is_integer(floor) ->
        bytes + div(floor, 2) <= headroom

      _unknown ->
        true
    end
  end

  @doc "Tells whether any worker is about to take a step that matters."
  @spec any?() :: boolean()
  def any?, do: :ets.first(__MODULE__) != :"$end_of_table"

  @doc """
  Returns the largest step, and the sum of the largest steps that may run at the same time (one for each
  scheduler), in bytes.
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
