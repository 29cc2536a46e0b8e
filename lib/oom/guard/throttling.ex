defmodule OOM.Guard.Throttling do
  @moduledoc false
  # The guard's view of the throttle: whether a throttle is at work, the growth while the workers stand still,
  # and the time of the next throttle.

  alias OOM.{Limits, Native, Throttle}

  # `again_ms`: no throttle begins before this time, unless steps do not fit together.
  defstruct throttle: nil, standing_bytes_per_s: 0, again_ms: nil

  @type t :: %__MODULE__{
          throttle: Throttle.t() | nil,
          standing_bytes_per_s: non_neg_integer(),
          again_ms: integer() | nil
        }

  @spec start(t(), Native.watcher(), boolean()) :: t()
  def start(throttling, watcher, trim?),
    do: %{throttling | throttle: Throttle.start(watcher, trim?), standing_bytes_per_s: 0}

  @spec at_work?(t()) :: boolean()
  def at_work?(%{throttle: throttle}), do: throttle != nil

  @doc "Records the growth while the workers stood still, as the throttle reports it."
  @spec told(t(), non_neg_integer()) :: t()
  def told(throttling, bytes_per_s), do: %{throttling | standing_bytes_per_s: bytes_per_s}

  @doc "Returns the growth while the workers stood still, in bytes/s; `nil` where no throttle is at work."
  @spec standing_bytes_per_s(t()) :: non_neg_integer() | nil
  def standing_bytes_per_s(%{throttle: nil}), do: nil
  def standing_bytes_per_s(%{standing_bytes_per_s: standing}), do: standing

  @doc "Records that the throttle has ended; `foreign?`: because the growth is foreign."
  @spec ended(t(), boolean(), integer()) :: t()
  def ended(throttling, foreign?, now_ms) do
    pause_ms = if foreign?, do: Limits.Turn.again_foreign_ms(), else: Limits.Turn.again_ms()
    %{throttling | throttle: nil, again_ms: now_ms + pause_ms}
  end

  @doc "Tells whether the pause after the last throttle is over."
  @spec rested?(t(), integer()) :: boolean()
  def rested?(%{again_ms: again_ms}, now_ms), do: again_ms == nil or now_ms >= again_ms

  @doc "Tells whether the next throttle is the first of an episode of pressure."
  @spec episode_over?(t(), integer()) :: boolean()
  def episode_over?(%{again_ms: nil}, _now_ms), do: true
  def episode_over?(%{again_ms: again_ms}, now_ms), do: now_ms - again_ms > Limits.episode_ms()
end
