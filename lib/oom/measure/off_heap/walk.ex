defmodule OOM.OffHeap.Walk do
  @moduledoc false
  # One walk over the messages and monitors of a process, and the estimate by this walk until the next: pure.
  #
  # A walk tells the messages and the monitors together. Other processes send the messages, so the number of
  # messages tells of them, and the work of the process tells of its monitors only. A queue of 17 KB that came
  # while its owner stood still looked like 4 KB of monitors a reduction, and once the owner ran again, like
  # 26 MB.

  # A rate needs at least so much work: the memory of a process also varies by itself, and its heap may grow
  # between the readings of heap and memory.
  @least_reductions 100_000

  @enforce_keys [:queue, :bytes, :own_bytes, :reductions, :at_ms, :took_ms]
  defstruct queue: 0,
            bytes: 0,
            # the part that is no message; at a queue of some messages an estimate
            own_bytes: 0,
            reductions: 0,
            at_ms: 0,
            took_ms: 0,
            # `{own_bytes, reductions}` at the last walk with an empty queue
            empty: nil,
            bytes_per_reduction: 0.0

  @type t :: %__MODULE__{
          queue: non_neg_integer(),
          bytes: non_neg_integer(),
          own_bytes: non_neg_integer(),
          reductions: non_neg_integer(),
          at_ms: integer(),
          took_ms: non_neg_integer(),
          empty: {non_neg_integer(), non_neg_integer()} | nil,
          bytes_per_reduction: float()
        }

  @typedoc "What a walk sees: the number of messages, the bytes with theirs, and the work done by then."
  @type seen :: %{
          queue: non_neg_integer(),
          bytes: non_neg_integer(),
          reductions: non_neg_integer()
        }

  @doc "Returns the walk of `seen` at this time and of this length, after the last walk, or `nil`."
  @spec new(t() | nil, seen(), integer(), non_neg_integer()) :: t()
  def new(last, %{queue: queue, bytes: bytes, reductions: reductions}, at_ms, took_ms) do
    own = if queue == 0, do: bytes, else: min(own_bytes(last, reductions), bytes)

    walk = %__MODULE__{
      queue: queue,
      bytes: bytes,
      own_bytes: own,
      reductions: reductions,
      at_ms: at_ms,
      took_ms: took_ms
    }

    case {queue, last} do
      {0, nil} -> learn(walk, {0, 0}, 0.0)
      {0, last} -> learn(walk, last.empty || {0, 0}, last.bytes_per_reduction)
      {_, nil} -> walk
      {_, last} -> %{walk | empty: last.empty, bytes_per_reduction: last.bytes_per_reduction}
    end
  end

  # Without work since, the rate is as before.
  defp learn(%{own_bytes: own, reductions: reductions} = walk, {_, before}, rate)
       when reductions <= before,
       do: %{walk | empty: {own, reductions}, bytes_per_reduction: rate}

  defp learn(%{own_bytes: own, reductions: reductions} = walk, {own_before, before}, _rate) do
    rate = max(own - own_before, 0) / max(reductions - before, @least_reductions)
    %{walk | empty: {own, reductions}, bytes_per_reduction: rate}
  end

  @doc "Returns the bytes by this walk, of a process with so many messages that has done so much work."
  @spec estimate_bytes(t(), non_neg_integer(), non_neg_integer()) :: non_neg_integer()
  def estimate_bytes(walk, queue, reductions),
    do: own_bytes(walk, reductions) + messages_bytes(walk, queue)

  defp own_bytes(nil, _reductions), do: 0

  defp own_bytes(walk, reductions),
    do: walk.own_bytes + trunc(walk.bytes_per_reduction * max(reductions - walk.reductions, 0))

  defp messages_bytes(%{queue: 0}, _queue), do: 0

  defp messages_bytes(%{queue: before, bytes: bytes, own_bytes: own}, queue),
    do: div((bytes - own) * queue, before)
end
