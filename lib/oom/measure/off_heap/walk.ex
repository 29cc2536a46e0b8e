defmodule OOM.OffHeap.Walk do
  @moduledoc false
  # One walk over the messages and monitors of a process, and the estimate by this walk until the next: pure.
  #
  # A walk tells the messages and the monitors together. Other processes send the messages, so a walk that finds
  # another number of messages tells nothing of the work of the process. A queue of 17 KB that came while its owner
  # stood still looked like 4 KB of monitors a reduction, and once the owner ran again, like 26 MB.

  # Monitors cost next to nothing in reductions: 100,000 reductions set up some 50,000 of 64 bytes, 3 MB. Less work
  # makes no rate: the memory of a process also varies by itself.
  @hard_work 100_000

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

  @doc "Tells whether so many reductions may have set up many monitors."
  @spec hard_work?(non_neg_integer()) :: boolean()
  def hard_work?(reductions), do: reductions > @hard_work

  @doc "Returns this walk with the rate by the work since the last walk; by all work where `last` is `nil`."
  @spec after_last(t(), t() | nil) :: t()
  def after_last(walk, last), do: %{walk | bytes_per_reduction: rate(walk, last)}

  defp rate(walk, nil), do: walk.bytes / max(walk.reductions, @hard_work)

  defp rate(%{queue: queue} = walk, %{queue: queue} = last)
       when walk.reductions > last.reductions,
       do: max(walk.bytes - last.bytes, 0) / max(walk.reductions - last.reductions, @hard_work)

  defp rate(_walk, last), do: last.bytes_per_reduction

  @doc "Returns the bytes by this walk, of a process that has worked so many reductions since."
  @spec estimate_bytes(t(), non_neg_integer()) :: non_neg_integer()
  def estimate_bytes(walk, worked), do: walk.bytes + trunc(walk.bytes_per_reduction * worked)
end
