defmodule OOM.HeapCaps.Scan do
  @moduledoc false
  # Picks the workers to get a new cap by heap size: workers with a large heap, while memory
  # grows so slowly that the guard has time for figures and a decision. A runaway inside the VM passes from a
  # sixth of the limit to its end in less time, and a worker that never comes back to its loop is not reached.

  # Two looks, the message to the worker, and ten times the time of a decision.
  @time_ms 2_000
  # A worker is told again after growth by this factor, or after the heap has shrunk by half.
  @again 1.2

  @typedoc "The size of each large heap when the worker was last told, in bytes; `nil` before the first time."
  @type large :: %{pid() => pos_integer() | nil}

  @doc "Tells whether memory lasts long enough at the present growth."
  @spec time?(non_neg_integer() | nil) :: boolean()
  def time?(time_to_exhaustion_ms),
    do: time_to_exhaustion_ms == nil or time_to_exhaustion_ms > @time_ms

  @doc "Returns the heaps that are large now, and the workers to tell."
  @spec compare(large(), %{pid() => pos_integer()}, boolean()) :: {large(), [pid()]}
  def compare(before, sizes, time?) do
    told = for {pid, bytes} <- sizes, time? and tell?(before[pid], bytes), do: pid
    # A worker whose heap is small again gets the default again.
    small = for {pid, told} <- before, told != nil, not is_map_key(sizes, pid), do: pid

    large =
      for {pid, bytes} <- sizes, into: %{} do
        {pid, if(pid in told, do: bytes, else: before[pid])}
      end

    {large, told ++ small}
  end

  @doc "Tells whether some worker with a large heap was not told yet."
  @spec pending?(large()) :: boolean()
  def pending?(large), do: Enum.any?(large, fn {_, told} -> told == nil end)

  defp tell?(nil, _bytes), do: true
  defp tell?(told, bytes), do: bytes > told * @again or bytes * 2 < told
end
