defmodule OOM.Limits.Turn do
  @moduledoc false
  # The constants of the throttle and of its turns, as OOM.Limits has the constants of the other decisions: unit,
  # meaning, and where the value comes from.

  @mib 1_048_576

  # -- A stand

  @doc """
  The least stand, in ms: by then what was freed is back, and a decision has taken effect. The longest is
  `OOM.Limits.longest_stand_ms/0`.
  """
  @spec stand_ms() :: pos_integer()
  def stand_ms, do: 15

  @doc """
  So long at most a stand waits until all stand, in ms: a worker in a long collection does not stand for hundreds.
  """
  @spec settle_ms() :: pos_integer()
  def settle_ms, do: 10

  @doc """
  More growth than this while the others stand, in bytes, comes from the workers that are left alone, and ends the
  stand: less than the 5 to 8 MB that a worker at full speed takes in one slice.
  """
  @spec alert_bytes() :: pos_integer()
  def alert_bytes, do: 4 * @mib

  # -- Growth while workers stand (OOM.Standing)

  @doc "A verdict of growth takes so many ms of standing: three of the least stands."
  @spec verdict_ms() :: pos_integer()
  def verdict_ms, do: 3 * stand_ms()

  @doc "After so many ms of standing without growth, the growth comes from the workers that run: twenty stands."
  @spec own_ms() :: pos_integer()
  def own_ms, do: 20 * stand_ms()

  @doc """
  Less is no growth, in bytes: the kernel charges less than this in advance on a few CPUs, and other processes
  make noise.
  """
  @spec noise_bytes() :: pos_integer()
  def noise_bytes, do: div(@mib, 2)

  # -- The end of the throttle

  @doc "After so many turns without growth towards the floor the throttle ends. Chosen, not measured."
  @spec calm_turns() :: pos_integer()
  def calm_turns, do: 3

  # -- When the next throttle begins

  @doc "After a throttle has ended the next begins no sooner than this, in ms. Chosen, not measured."
  @spec again_ms() :: pos_integer()
  def again_ms, do: 5

  @doc """
  The same where the growth was of none of the workers, in ms: another throttle would tell the same, and
  standing costs the workers a part of their time. Chosen, not measured.
  """
  @spec again_foreign_ms() :: pos_integer()
  def again_foreign_ms, do: 500
end
