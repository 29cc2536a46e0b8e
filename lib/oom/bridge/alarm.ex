defmodule OOM.Bridge.Alarm do
  @moduledoc false
  # Whether the alarm of a bridge is set, as pure state; the clock is passed in.
  #
  # A host does not stop its producers at once: what they have sent is on its way, and once the alarm is cleared,
  # all send at the same time. So each alarm measures how much memory is still taken after the alarm was set, its
  # burst, and is cleared only where twice the burst fits.

  alias OOM.Level

  # `room_ms`: since when the level has been below the alarm's, and the headroom large enough. `from_bytes`: the
  # headroom when the alarm was set. `burst_bytes`: the largest burst of this alarm, and half the last alarm's.
  defstruct set?: false, room_ms: nil, from_bytes: nil, burst_bytes: 0

  @type t :: %__MODULE__{
          set?: boolean(),
          room_ms: integer() | nil,
          from_bytes: non_neg_integer() | nil,
          burst_bytes: non_neg_integer()
        }
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
    pressed? = Level.number(seen.level) >= Level.number(options[:at])

    if pressed? or alarm.set?,
      do: alarm |> measured(seen) |> room(pressed?, seen, options, now_ms),
      else: alarm
  end

  defp measured(%{from_bytes: from} = alarm, %{headroom_bytes: headroom})
       when is_integer(from) and is_integer(headroom),
       do: %{alarm | burst_bytes: max(alarm.burst_bytes, from - headroom)}

  # The alarm is new, or no limit is known, or the bridge has crashed.
  defp measured(alarm, seen),
    do: %{alarm | set?: true, from_bytes: alarm.from_bytes || seen.headroom_bytes}

  defp room(alarm, pressed?, seen, options, now_ms) do
    cond do
      pressed? or not room?(seen, options[:clear_headroom_percent], alarm) ->
        %{alarm | room_ms: nil}

      alarm.room_ms == nil ->
        %{alarm | room_ms: now_ms}

      now_ms - alarm.room_ms >= options[:clear_after_ms] ->
        %__MODULE__{burst_bytes: div(alarm.burst_bytes, 2)}

      true ->
        alarm
    end
  end

  # Without a limit nothing is short.
  defp room?(%{headroom_bytes: headroom, limit_bytes: limit}, percent, alarm)
       when is_integer(headroom) and is_integer(limit),
       do: headroom * 100 >= limit * percent and headroom >= 2 * alarm.burst_bytes

  defp room?(_no_limit, _percent, _alarm), do: true
end
