defmodule OOM.Bridge.Alarm do
  @moduledoc false
  # Whether the alarm of a bridge is set, as pure state; the clock is passed in.

  alias OOM.Level

  # `room_ms`: since when the level has been below the alarm's, and the headroom large enough.
  defstruct set?: false, room_ms: nil

  @type t :: %__MODULE__{set?: boolean(), room_ms: integer() | nil}
  @type seen :: %{
          level: OOM.level(),
          headroom_bytes: non_neg_integer() | nil,
          limit_bytes: pos_integer() | nil
        }

  @spec new(boolean()) :: t()
  def new(set?), do: %__MODULE__{set?: set?}

  @doc "Returns the alarm after a look at level and headroom."
  @spec look(t(), seen(), keyword(), integer()) :: t()
  def look(alarm, seen, options, now_ms) do
    cond do
      Level.number(seen.level) >= Level.number(options[:at]) -> new(true)
      not alarm.set? -> alarm
      not room?(seen, options[:clear_headroom_percent]) -> new(true)
      alarm.room_ms == nil -> %{alarm | room_ms: now_ms}
      now_ms - alarm.room_ms >= options[:clear_after_ms] -> new(false)
      true -> alarm
    end
  end

  # Without a limit nothing is short.
  defp room?(%{headroom_bytes: headroom, limit_bytes: limit}, percent)
       when is_integer(headroom) and is_integer(limit),
       do: headroom * 100 >= limit * percent

  defp room?(_no_limit, _percent), do: true
end
