defmodule OOM.RecentGrowth do
  @moduledoc false
  # How much memory has grown lately, remembered for as long as the growth of workers is (OOM.Evidence), so
  # that the two can be compared: pure, the clock is passed in. Compared with the growth of the moment, the
  # small growth of workers that just work looked like the cause once the growth of an unknown process had
  # ended: 3 of 50 workers that held 8 MB each died for 54 MB that were not theirs (1 of 13 runs).

  alias OOM.Evidence

  defstruct bytes: 0, last: nil

  @type t :: %__MODULE__{
          bytes: non_neg_integer(),
          last: {at_ms :: integer(), working_set_bytes :: non_neg_integer()} | nil
        }

  @doc """
  Records a report. While workers are throttled their growth does not fade, and neither does this.
  """
  @spec seen(t(), map(), integer(), boolean()) :: t()
  def seen(%{last: nil} = recent, %{working_set_bytes: used}, now_ms, _throttled?),
    do: %{recent | last: {now_ms, used}}

  def seen(%{last: {at_ms, before}, bytes: bytes}, %{working_set_bytes: used}, now_ms, throttled?) do
    since_ms = max(now_ms - at_ms, 0)
    bytes = if throttled?, do: bytes, else: Evidence.faded(bytes, since_ms)
    bytes = max(bytes + Evidence.lately(used - before, since_ms), 0)
    %__MODULE__{bytes: bytes, last: {now_ms, used}}
  end
end
