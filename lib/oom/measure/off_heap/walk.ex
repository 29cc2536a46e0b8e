defmodule OOM.OffHeap.Walk do
  @moduledoc false
  # One walk over the messages and monitors of a process, and the estimate by this walk until the next: pure.
  #
  # A walk tells the messages and the monitors together. Other processes send the messages, so a walk that finds
  # another number of messages tells nothing of the work of the process. A queue of 17 KB that came while its owner
  # stood still looked like 4 KB of monitors a reduction, and once the owner ran again, like 26 MB.

  # A rate needs at least so much work: the memory of a process also varies by itself, and its heap may grow
  # between the readings of heap and memory.
  @least_reductions 100_000

  @enforce_keys [:queue, :bytes, :reductions, :at_ms, :took_ms]
  defstruct queue: 0,
            bytes: 0,
            reductions: 0,
            at_ms: 0,
            took_ms: 0,
            bytes_per_reduction: 0.0

  @type t :: %__MODULE__{
          queue: non_neg_integer(),
          bytes: non_neg_integer(),
          reductions: non_neg_integer(),
          at_ms: integer(),
          took_ms: non_neg_integer(),
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
    %__MODULE__{
      queue: queue,
      bytes: bytes,
      reductions: reductions,
      at_ms: at_ms,
      took_ms: took_ms,
      bytes_per_reduction: rate(last, queue, bytes, reductions)
    }
  end

  defp rate(nil, _queue, bytes, reductions), do: bytes / max(reductions, @least_reductions)

  defp rate(%{queue: queue, reductions: before} = last, queue, bytes, reductions)
       when reductions > before,
       do: max(bytes - last.bytes, 0) / max(reductions - before, @least_reductions)

  defp rate(last, _queue, _bytes, _reductions), do: last.bytes_per_reduction

  @doc "Returns the bytes by this walk, of a process that has done so much work."
  @spec estimate_bytes(t(), non_neg_integer()) :: non_neg_integer()
  def estimate_bytes(walk, reductions),
    do: walk.bytes + trunc(walk.bytes_per_reduction * max(reductions - walk.reductions, 0))
end
