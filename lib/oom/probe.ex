defmodule OOM.Probe do
  @moduledoc false
  # Asks workers what they hold. `process_info` of another process is a signal to it: one that is
  # in a long collection does not answer until it is done. So whoever asks is a throw-away
  # process; the accountant sees where it stands, and sends another past the one that blocks.
  #
  # A chunk is shared by the probes that work on it: each takes the next pid by one atomic add.

  alias OOM.Workers

  @type chunk :: {pids :: tuple(), cursor :: :atomics.atomics_ref()}

  # What gives these two is read without a signal to the worker unless it runs just then (1 us
  # here, among 1,000 runnable processes); `memory` is always a signal, and walks the mailbox.
  @cheap [:garbage_collection_info, :message_queue_len]
  # Messages that weigh something; fewer are not worth the dearer question.
  @long_queue 32
  @word 8

  @doc "The figure: heap, stack and mailbox, and the off-heap binaries the heap keeps alive."
  @spec bytes(pid()) :: non_neg_integer() | nil
  def bytes(pid) do
    case :erlang.process_info(pid, @cheap) do
      [{_, gc}, {_, queue}] when queue < @long_queue -> heap(gc) + binaries(gc)
      [{_, gc}, _] -> max(memory(pid), heap(gc)) + binaries(gc)
      :undefined -> nil
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

  @doc "Starts a probe on a chunk."
  @spec start(chunk(), :normal | :high) :: {pid(), reference()}
  def start(chunk, priority) do
    :erlang.spawn_opt(__MODULE__, :run, [chunk], [:monitor, priority: priority])
  end

  @doc "The pid whose answer the newest probe of this chunk waits for, or `nil` at the end."
  @spec current(chunk()) :: {pos_integer(), pid()} | nil
  def current({pids, cursor}) do
    index = :atomics.get(cursor, 1)
    if index in 1..tuple_size(pids)//1, do: {index, elem(pids, index - 1)}
  end

  @doc false
  @spec run(chunk()) :: :ok
  def run({pids, cursor} = chunk) do
    index = :atomics.add_get(cursor, 1, 1)

    if index <= tuple_size(pids) do
      pid = elem(pids, index - 1)

      with bytes when is_integer(bytes) <- bytes(pid),
           do: Workers.sampled(pid, bytes, System.monotonic_time(:millisecond), :fresh)

      run(chunk)
    else
      :ok
    end
  end
end
