defmodule OOM.HeapCaps.Scan do
  @moduledoc false
  # Whose cap is set anew, from what it holds: a large heap, while memory grows so slowly that the guard
  # has time for figures and a decision. What runs away by itself in the VM passes from a sixth of the
  # limit to its end in less than that, and a worker that never comes back to its loop is not reached.

  # Two looks, the message to the worker, and ten times what a decision takes.
  @time_ms 2_000
  # It is told again when it has grown by this, or shrunk by half.
  @again 1.2

  @typedoc "Large heaps by what they held when they were last told; `nil` where they were not yet."
  @type large :: %{pid() => pos_integer() | nil}

  @doc "Whether memory lasts long enough at its present growth."
  @spec time?(non_neg_integer() | nil) :: boolean()
  def time?(time_to_exhaustion_ms),
    do: time_to_exhaustion_ms == nil or time_to_exhaustion_ms > @time_ms

  @doc "What is large now, and who is told."
  @spec compare(large(), %{pid() => pos_integer()}, boolean()) :: {large(), [pid()]}
  def compare(before, sizes, time?) do
    told = for {pid, bytes} <- sizes, time? and tell?(before[pid], bytes), do: pid
    # One that is small again gets the default again.
    small = for {pid, told} <- before, told != nil, not is_map_key(sizes, pid), do: pid

    large =
      for {pid, bytes} <- sizes, into: %{} do
        {pid, if(pid in told, do: bytes, else: before[pid])}
      end

    {large, told ++ small}
  end

  @doc "Whether somebody large was not told yet."
  @spec pending?(large()) :: boolean()
  def pending?(large), do: Enum.any?(large, fn {_, told} -> told == nil end)

  defp tell?(nil, _bytes), do: true
  defp tell?(told, bytes), do: bytes > told * @again or bytes * 2 < told
end
