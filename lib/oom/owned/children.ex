defmodule OOM.Owned.Children do
  @moduledoc false
  # The unregistered processes below a worker (OOM.Owned.Line). A worker's tens of thousands of children are
  # alike: the reading asks only some children for their memory, and counts each of the rest at the average of
  # the sample without its largest child.

  @behaviour OOM.Owned

  alias OOM.{Heap, HeldBinaries, OffHeap}
  alias OOM.Owned.Line

  @sample 200
  # So many children with a long mailbox are asked for it, which is a signal to the child.
  @asked 8
  # The memory of a process besides the heap: the process block, the stack and the entry in tables.
  @fixed_bytes 1_000

  @impl true
  def read do
    {owners, _seen} = Enum.reduce(Process.list(), {%{}, %{}}, &add/2)

    for {owner, {count, sampled, bytes, most}} <- owners,
        do: {owner, bytes + (count - sampled) * div(bytes - most, max(sampled - 1, 1)), nil}
  end

  defp add(pid, {owners, seen}) do
    {owner, seen} = Line.worker(pid, seen)

    if owner in [nil, pid],
      do: {owners, seen},
      else: {Map.put(owners, owner, count(owners[owner], pid)), seen}
  end

  # {children, size of the sample, bytes of the whole sample, bytes of the largest child in the sample}
  defp count({count, @sample, bytes, most}, _pid), do: {count + 1, @sample, bytes, most}

  defp count(nil, pid), do: count({0, 0, 0, 0}, pid)

  defp count({count, sampled, bytes, most}, pid) do
    more = bytes(pid, sampled < @asked)
    {count + 1, sampled + 1, bytes + more, max(most, more)}
  end

  @doc "Returns all unregistered processes that count for a worker, even one no longer registered itself."
  @spec below(pid()) :: [pid()]
  def below(worker) do
    {below, _seen} =
      Enum.reduce(Process.list(), {[], %{worker => worker}}, fn pid, {below, seen} ->
        {owner, seen} = Line.worker(pid, seen)
        {if(owner == worker and pid != worker, do: [pid | below], else: below), seen}
      end)

    below
  end

  # No signal, unless the process runs just then, or has a long mailbox.
  defp bytes(pid, ask?) do
    case :erlang.process_info(pid, [:garbage_collection_info, :message_queue_len]) do
      [{_, gc}, {_, queue}] ->
        heap = Heap.block_bytes(gc)
        beside = if ask?, do: beside(pid, heap, queue), else: %OffHeap{}
        heap + beside.bytes + binaries(gc, beside) + @fixed_bytes

      :undefined ->
        0
    end
  end

  defp beside(pid, heap, queue),
    do: OffHeap.read(pid, %{heap_bytes: heap, queue: queue, reductions: 0, at_ms: 0}, nil, true)

  defp binaries(gc, beside), do: OffHeap.binaries(HeldBinaries.virtual_bytes(gc), beside)
end
