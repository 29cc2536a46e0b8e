defmodule OOM.OffHeap do
  @moduledoc false
  # The memory of a process beside its heap and the binaries that the heap refers to: messages with their
  # binaries, and monitors. Only `process_info` of `memory` tells, a signal to the process, after a walk over
  # all messages and monitors in the time of the process. So the question is asked where it may matter:
  #
  #   * A queue of 32 messages or more; between two readings the number of messages tells (OOM.Mailboxes).
  #   * A shorter queue that was there at the last look, too: ten messages may hold 100 MB.
  #   * A process that has worked a lot since the last reading, as to set up a million monitors takes.
  #
  # `memory` counts half of a monitor, the other half at the other end. It leaves out the binaries of messages.
  # Where the messages are small, their binaries are read from a copy (OOM.BinaryShares), and weighed by the
  # number of messages in between.

  alias OOM.{BinaryShares, Heap, Mailboxes}
  alias OOM.OffHeap.Walk

  # Fewer messages weigh too little for the dearer question, unless they stay.
  @long_queue 32
  # A walk over many monitors takes long (500,000: 20 to 50 ms), and the process neither runs nor stops meanwhile.
  # No more than this part of the time is spent; in between the work of the process tells.
  @walk_share 1_000
  # Messages are copied up to this size. The copy of 1 MB in 6,400 messages takes 3 to 8 ms.
  @copied_bytes 2 * 1_048_576
  # The binaries of a mailbox are read again after a change of the number of messages by a quarter.
  @again 4

  # The process itself and its entries in tables, in bytes.
  @process_bytes 1_000

  # `bytes`: the messages and monitors, read or estimated at this look.
  # `walk`: the last walk; `binaries`: the number of messages at the last reading of their binaries, and these.
  defstruct queue: 0, bytes: 0, on_heap?: false, walk: nil, binaries: nil

  @type t :: %__MODULE__{
          queue: non_neg_integer(),
          bytes: non_neg_integer(),
          on_heap?: boolean(),
          walk: Walk.t() | nil,
          binaries: {pos_integer(), non_neg_integer()} | nil
        }

  @typedoc "What a look reads without a signal: number of messages, reductions, and the time."
  @type seen :: %{
          queue: non_neg_integer(),
          reductions: non_neg_integer(),
          at_ms: integer()
        }

  @doc """
  Returns the reading of a process at this look; `last` is the reading of the last look, or `nil`. A process
  that is no candidate (`ask?`) is asked for a long queue only: no walk slows a protected worker.
  """
  @spec read(pid(), seen(), t() | :none | nil, boolean()) :: t()
  def read(pid, seen, :none, ask?), do: read(pid, seen, %__MODULE__{}, ask?)

  def read(pid, %{queue: queue} = seen, last, ask?) do
    case if(ask? or queue >= @long_queue, do: due(seen, last)) do
      :walk -> walk(pid, seen, last || %__MODULE__{})
      nil -> %{(last || %__MODULE__{}) | queue: queue}
      bytes -> with_binaries(pid, %{last | queue: queue, bytes: bytes})
    end
  end

  # Whether a walk is due, or the bytes by the last walk; `nil` where the last reading holds. At the first look
  # of a process nothing is asked, unless the queue is long: see OOM.HeldBinaries.
  defp due(%{queue: queue}, nil), do: if(queue >= @long_queue, do: :walk)

  defp due(%{queue: queue} = seen, %{walk: nil} = last) do
    waits? = queue >= @long_queue or (queue > 0 and last.queue > 0)
    if waits? or Walk.hard_work?(seen.reductions), do: :walk
  end

  # Nothing has changed since the walk.
  defp due(%{queue: queue, reductions: same}, %{walk: %{queue: queue, reductions: same}}), do: nil

  defp due(%{queue: queue}, %{walk: walk}) when queue >= @long_queue,
    do: Mailboxes.bytes({max(walk.queue, 1), walk.bytes}, queue) || :walk

  defp due(%{queue: queue} = seen, %{walk: walk} = last) do
    worked = max(seen.reductions - walk.reductions, 0)
    messages? = queue > 0 or last.queue > 0

    cond do
      # The long queue of the walk has gone.
      walk.queue >= @long_queue ->
        :walk

      seen.at_ms - walk.at_ms < @walk_share * walk.took_ms ->
        Walk.estimate_bytes(walk, worked)

      messages? or Walk.hard_work?(worked) ->
        :walk

      true ->
        nil
    end
  end

  @doc "Returns the part of a reading to keep until the next look: most workers have no messages."
  @spec kept(t()) :: t() | :none
  def kept(%{queue: 0, walk: nil}), do: :none
  def kept(reading), do: reading

  @doc "Returns the binaries in the messages of a reading, in bytes."
  @spec binary_bytes(t()) :: non_neg_integer()
  def binary_bytes(%{binaries: nil}), do: 0
  def binary_bytes(%{queue: 0}), do: 0

  def binary_bytes(%{binaries: {count, bytes}, queue: queue}),
    do: div(bytes * queue, max(count, 1))

  @doc """
  Returns the binaries of the heap and of the messages, in bytes. Messages on the heap may be counted with the
  heap already.
  """
  @spec binaries(non_neg_integer(), t()) :: non_neg_integer()
  def binaries(heap_bytes, %{on_heap?: true} = reading),
    do: max(heap_bytes, binary_bytes(reading))

  def binaries(heap_bytes, reading), do: heap_bytes + binary_bytes(reading)

  defp walk(pid, %{queue: queue} = seen, last) do
    began = now()

    # The heap is read in the same question. A heap that had grown by 1 MB between two questions looked like
    # monitors of 1 MB, and by the work of the process like 30 MB a second later.
    case :erlang.process_info(pid, [:memory, :message_queue_data, :garbage_collection_info]) do
      [{_, memory}, {_, where}, {_, gc}] ->
        bytes = max(memory - Heap.block_bytes(gc) - @process_bytes, 0)

        walk = %Walk{
          queue: queue,
          bytes: bytes,
          reductions: seen.reductions,
          at_ms: seen.at_ms,
          took_ms: now() - began
        }

        with_binaries(pid, %{
          last
          | queue: queue,
            bytes: bytes,
            on_heap?: where == :on_heap,
            walk: Walk.after_last(walk, last.walk)
        })

      :undefined ->
        last
    end
  end

  defp with_binaries(_pid, %{queue: 0} = reading), do: %{reading | binaries: nil}

  defp with_binaries(pid, %{queue: queue, bytes: bytes, binaries: last} = reading) do
    if bytes <= @copied_bytes and changed?(queue, last) do
      held = BinaryShares.bytes(fn -> :erlang.process_info(pid, :messages) end)
      %{reading | binaries: {queue, held}}
    else
      reading
    end
  end

  defp changed?(_queue, nil), do: true
  defp changed?(queue, {count, _}), do: abs(queue - count) * @again > count

  defp now, do: System.monotonic_time(:millisecond)
end
