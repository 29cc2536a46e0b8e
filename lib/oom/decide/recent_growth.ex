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

  @doc "Records a report. The growth fades as that of a worker which runs now and then."
  @spec seen(t(), map(), integer()) :: t()
  def seen(%{last: nil} = recent, %{working_set_bytes: used}, now_ms),
    do: %{recent | last: {now_ms, used}}

  def seen(%{last: {at_ms, before}, bytes: bytes}, %{working_set_bytes: used}, now_ms) do
    since_ms = max(now_ms - at_ms, 0)
    grown = Evidence.faded(bytes, since_ms) + Evidence.lately(used - before, since_ms)
    bytes = max(grown, 0)
    %__MODULE__{bytes: bytes, last: {now_ms, used}}
  end
end
