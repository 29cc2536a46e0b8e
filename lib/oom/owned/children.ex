defmodule OOM.Owned.Children do
  @moduledoc false
  # An unregistered process counts for the nearest worker above it in the line of parents: the worker
  # spawned the process, and linked processes end with the worker.
  #
  # Asking for the parent is no signal to a process outside a run (0.6 us here). A worker's tens of thousands
  # of children are alike: the reading asks only some children for their memory, and counts each of the rest
  # at the average of the sample without its largest child.

  @behaviour OOM.Owned

  alias OOM.{Tree, Workers}

  @sample 200
  # The search for a worker ends so many parents up.
  @generations 16
  # The memory of a process besides the heap: the process block, the stack and the entry in tables.
  @fixed_bytes 1_000
  @word 8

  @impl true
  def read do
    {owners, _seen} = Enum.reduce(Process.list(), {%{}, %{}}, &add/2)

    for {owner, {count, sampled, bytes, most}} <- owners,
        do: {owner, bytes + (count - sampled) * div(bytes - most, max(sampled - 1, 1)), nil}
  end

  defp add(pid, {owners, seen}) do
    {owner, seen} = owner(pid, seen)

    if owner in [nil, pid],
      do: {owners, seen},
      else: {Map.put(owners, owner, count(owners[owner], pid)), seen}
  end

  # {children, size of the sample, bytes of the whole sample, bytes of the largest child in the sample}
  defp count({count, @sample, bytes, most}, _pid), do: {count + 1, @sample, bytes, most}

  defp count(nil, pid), do: count({0, 0, 0, 0}, pid)

  defp count({count, sampled, bytes, most}, pid) do
    more = bytes(pid)
    {count + 1, sampled + 1, bytes + more, max(most, more)}
  end

  # Siblings have the same answer, so a parent is looked up once.
  defp owner(pid, seen, generation \\ 0)
  defp owner(_pid, seen, @generations), do: {:too_far, seen}

  defp owner(pid, seen, generation) do
    cond do
      Workers.member?(pid) -> {pid, seen}
      # A child of a supervisor counts neither for the supervisor nor for a worker above.
      Tree.supervisor?(pid) -> {nil, seen}
      true -> owner_of_parent(:erlang.process_info(pid, :parent), seen, generation)
    end
  end

  defp owner_of_parent({_, parent}, seen, _generation) when is_map_key(seen, parent),
    do: {seen[parent], seen}

  defp owner_of_parent({_, parent}, seen, generation)
       when is_pid(parent) and node(parent) == node() do
    # `:too_far` is not remembered: a walk that begins nearer to the parent may still find a worker.
    case owner(parent, seen, generation + 1) do
      {:too_far, seen} -> {if(generation == 0, do: nil, else: :too_far), seen}
      {owner, seen} -> {owner, Map.put(seen, parent, owner)}
    end
  end

  defp owner_of_parent(_unknown, seen, _generation), do: {nil, seen}

  @doc "Returns all unregistered processes that count for a worker, even one no longer registered itself."
  @spec below(pid()) :: [pid()]
  def below(worker) do
    {below, _seen} =
      Enum.reduce(Process.list(), {[], %{worker => worker}}, fn pid, {below, seen} ->
        {owner, seen} = owner(pid, seen)
        {if(owner == worker and pid != worker, do: [pid | below], else: below), seen}
      end)

    below
  end

  # No signal, unless the process runs just then.
  defp bytes(pid) do
    case :erlang.process_info(pid, :garbage_collection_info) do
      {_, gc} ->
        heap = gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size]
        @word * (heap + gc[:bin_vheap_size] + gc[:bin_old_vheap_size]) + @fixed_bytes

      :undefined ->
        0
    end
  end
end
