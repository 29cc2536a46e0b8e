defmodule OOM.Owned.Children do
  @moduledoc false
  # Processes nobody registered count for the nearest worker that started them, if one did: it
  # spawned them, and those it is linked with end with it.
  #
  # Asking for the parent is no signal to one that does not run (0.6 us here). Where a worker has
  # tens of thousands of children they are alike: only some are asked what they hold, and the rest
  # count as these do without the largest of them.

  @behaviour OOM.Owned

  alias OOM.{Tree, Workers}

  @sample 200
  # Further up nobody looks.
  @generations 16
  # What a process takes besides its heap: its block, its stack and its entry in tables.
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

  # {children, how many of them were asked, what these hold together, what the largest holds}
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
      # What a supervisor starts is not its own, nor that of a worker above it.
      Tree.supervisor?(pid) -> {nil, seen}
      true -> owner_of_parent(:erlang.process_info(pid, :parent), seen, generation)
    end
  end

  defp owner_of_parent({_, parent}, seen, _generation) when is_map_key(seen, parent),
    do: {seen[parent], seen}

  defp owner_of_parent({_, parent}, seen, generation)
       when is_pid(parent) and node(parent) == node() do
    # What is too far for this one need not be for its parent's other children.
    case owner(parent, seen, generation + 1) do
      {:too_far, seen} -> {if(generation == 0, do: nil, else: :too_far), seen}
      {owner, seen} -> {owner, Map.put(seen, parent, owner)}
    end
  end

  defp owner_of_parent(_unknown, seen, _generation), do: {nil, seen}

  @doc "All unregistered processes that count for this one, which need not be registered any more."
  @spec below(pid()) :: [pid()]
  def below(worker) do
    {below, _seen} =
      Enum.reduce(Process.list(), {[], %{worker => worker}}, fn pid, {below, seen} ->
        {owner, seen} = owner(pid, seen)
        {if(owner == worker and pid != worker, do: [pid | below], else: below), seen}
      end)

    below
  end

  # Read without a signal unless it runs just then.
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
