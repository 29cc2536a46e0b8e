defmodule OOM.Probe do
  @moduledoc false
  # Asks workers what they hold. `process_info` of another process is a signal to it: one that is
  # in a long collection does not answer until it is done. So whoever asks is a throw-away
  # process; the accountant sees where it stands, and sends another past the one that blocks.
  #
  # A chunk is shared by the probes that work on it: each takes the next pid by one atomic add, and
  # notes in a word of its own which one it is at.

  alias OOM.{Owned, Workers}

  @type chunk :: {pids :: tuple(), cursor :: :atomics.atomics_ref()}
  @type probe :: {pid(), place :: {pids :: tuple(), :atomics.atomics_ref()}}

  # What gives these two is read without a signal to the worker unless it runs just then (1 us
  # here, among 1,000 runnable processes); `memory` is always a signal, and walks the mailbox.
  @cheap [:garbage_collection_info, :message_queue_len]
  # Messages that weigh something; fewer are not worth the dearer question.
  @long_queue 32
  @word 8

  @doc """
  The figure: heap, stack and mailbox, the off-heap binaries the heap keeps alive, and the ETS
  tables it owns.
  """
  @spec bytes(pid()) :: non_neg_integer() | nil
  def bytes(pid) do
    case :erlang.process_info(pid, @cheap) do
      [{_, gc}, {_, queue}] when queue < @long_queue ->
        heap(gc) + binaries(gc) + Owned.bytes(pid)

      [{_, gc}, _] ->
        max(memory(pid), heap(gc)) + binaries(gc) + Owned.bytes(pid)

      :undefined ->
        nil
    end
  end

  defp heap(gc),
    do: @word * (gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size])

  # The virtual binary heap counts words of off-heap binaries, shared ones in each holder.
  defp binaries(gc), do: @word * (gc[:bin_vheap_size] + gc[:bin_old_vheap_size])

  defp memory(pid) do
    case :erlang.process_info(pid, :memory) do
      {:memory, bytes} -> bytes
      :undefined -> 0
    end
  end

  @spec chunk([pid()]) :: chunk()
  def chunk(pids), do: {List.to_tuple(pids), :atomics.new(1, signed: false)}

  @doc """
  Starts a probe on a chunk. At high priority: a signal lends the worker the priority of who asks,
  so that even one at the end of a long run queue answers at once; and a probe of normal priority
  that was sent in calm time would stay behind when it matters.
  """
  @spec start(chunk()) :: {probe(), reference()}
  def start({pids, cursor}) do
    place = :atomics.new(1, signed: false)
    args = [pids, cursor, place]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, args, [:monitor, priority: :high])
    {{pid, {pids, place}}, ref}
  end

  @doc "The worker whose answer a probe waits for, with its place; `nil` between two."
  @spec stands_at(probe()) :: {pos_integer(), pid()} | nil
  def stands_at({_pid, {pids, place}}) do
    case :atomics.get(place, 1) do
      0 -> nil
      index -> {index, elem(pids, index - 1)}
    end
  end

  @doc false
  @spec run(tuple(), :atomics.atomics_ref(), :atomics.atomics_ref()) :: :ok
  def run(pids, cursor, place) do
    index = :atomics.add_get(cursor, 1, 1)

    if index <= tuple_size(pids) do
      :atomics.put(place, 1, index)
      sample(elem(pids, index - 1))
      :atomics.put(place, 1, 0)
      run(pids, cursor, place)
    else
      :ok
    end
  end

  defp sample(pid) do
    with bytes when is_integer(bytes) <- bytes(pid),
         do: Workers.sampled(pid, bytes, System.monotonic_time(:millisecond), :fresh)
  end
end
