defmodule OOM.Owned.Children do
  @moduledoc false
  # The unregistered processes below a worker (OOM.Owned.Line). A worker's tens of thousands of children are
  # alike: the reading asks only some children for their memory, and counts each of the rest at the average of
  # the sample without its largest child. The detail of a holding tells of the child with the
  # largest step (OOM.Steps): the live part of the heap, the most that the next collection copies, and the pid.

  @behaviour OOM.Owned

  alias OOM.{Heap, HeapStep, HeldBinaries, OffHeap}
  alias OOM.Owned.Line

  @sample 200
  # So many children with a long mailbox are asked for it, which is a signal to the child.
  @asked 8
  # The memory of a process besides the heap: the process block, the stack and the entry in tables.
  @fixed_bytes 1_000

  @impl true
  def read do
    {owners, _seen} = Enum.reduce(Process.list(), {%{}, %{}}, &add/2)

    for {owner, {count, sampled, bytes, most, step}} <- owners,
        do: {owner, bytes + (count - sampled) * div(bytes - most, max(sampled - 1, 1)), step}
  end

  defp add(pid, {owners, seen}) do
    {owner, seen} = Line.worker(pid, seen)

    if owner in [nil, pid],
      do: {owners, seen},
      else: {Map.put(owners, owner, count(owners[owner], pid)), seen}
  end

  # {children, size of the sample, bytes of the whole sample, bytes of the largest child in the sample, live
  # part and step of the child with the largest step}
  defp count({count, @sample, bytes, most, step}, _pid),
    do: {count + 1, @sample, bytes, most, step}

  defp count(nil, pid), do: count({0, 0, 0, 0, {0, 0, pid}}, pid)

  defp count({count, sampled, bytes, most, step}, pid) do
    {more, other} = read(pid, sampled < @asked)
    step = if elem(other, 1) > elem(step, 1), do: other, else: step
    {count + 1, sampled + 1, bytes + more, max(most, more), step}
  end

  # No signal, unless the process runs just then, or has a long mailbox.
  defp read(pid, ask?) do
    case :erlang.process_info(pid, [:garbage_collection_info, :message_queue_len]) do
      [{_, gc}, {_, queue}] ->
        heap = Heap.block_bytes(gc)
        beside = if ask?, do: beside(pid, queue), else: %OffHeap{}

        {heap + beside.bytes + binaries(gc, beside) + @fixed_bytes,
         {Heap.live_bytes(gc), HeapStep.bytes(gc), pid}}

      :undefined ->
        {0, {0, 0, pid}}
    end
  end

  defp beside(pid, queue),
    do: OffHeap.read(pid, %{queue: queue, reductions: 0, at_ms: 0}, nil, true)

  defp binaries(gc, beside), do: OffHeap.binaries(HeldBinaries.virtual_bytes(gc), beside)
end
