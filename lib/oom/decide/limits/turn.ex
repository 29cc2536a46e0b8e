defmodule OOM.Limits.Turn do
  @moduledoc false
  # The constants of the throttle and of its turns, as OOM.Limits has the constants of the other decisions: unit,
  # meaning, and where the value comes from.

  # -- When the next throttle begins

  @doc "After a throttle has ended the next begins no sooner than this, in ms: a few samples show what grows."
  @spec again_ms() :: pos_integer()
  def again_ms, do: 5

  @doc """
  The same where the growth was of none of the workers, in ms: another throttle would tell the same, and
  standing costs the workers a part of their time.
  """
  @spec again_foreign_ms() :: pos_integer()
  def again_foreign_ms, do: 500
end
