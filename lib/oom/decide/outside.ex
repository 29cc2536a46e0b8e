defmodule OOM.Outside do
  @moduledoc false
  # Growth outside of this VM: the working set of the limit without the resident memory of the VM. Pure; the
  # clock is passed in. A port program, or another process of the same cgroup, grows so. No worker of this VM
  # takes such memory, and no throttle slows the growth.

  alias OOM.Limits

  defstruct since: nil, bytes_per_s: 0

  @typedoc "`since`: the time and the memory outside at the beginning of the window."
  @type t :: %__MODULE__{
          since: {at_ms :: integer(), outside_bytes :: integer()} | nil,
          bytes_per_s: non_neg_integer()
        }

  @doc "Records a report; without the resident memory of the VM nothing is known."
  @spec seen(t(), map(), integer()) :: t()
  def seen(outside, %{working_set_bytes: used, rss_bytes: rss}, now_ms)
      when is_integer(used) and is_integer(rss),
      do: window(outside, used - rss, now_ms)

  def seen(_outside, _report, _now_ms), do: %__MODULE__{}

  defp window(%{since: nil}, bytes, now_ms), do: %__MODULE__{since: {now_ms, bytes}}

  defp window(%{since: {since_ms, before}} = outside, bytes, now_ms) do
    ms = now_ms - since_ms

    if ms < Limits.outside_ms(),
      do: outside,
      else: %__MODULE__{
        since: {now_ms, bytes},
        bytes_per_s: max(div((bytes - before) * 1_000, ms), 0)
      }
  end
end
