defmodule OOM.RecentKills do
  @moduledoc false
  # When the guard last killed one of each rank: one small row per rank, which nobody has to sweep. It
  # tells whether victims may still be on their way, and whom the guard would end next.

  alias OOM.{Priority, Tables}

  # For so long victims are taken to be on their way: more than twice the default grace of one that traps
  # exits. Those that take longer to end still hold what they held, and count as used.
  @on_their_way_ms 250
  # For so long after a kill the guard is taken to be at it, and to kill who starts into that.
  @at_it_ms 1_000

  @spec note(Priority.rank(), integer()) :: :ok
  def note(rank, now_ms) when is_integer(rank), do: Tables.put_killed(rank, now_ms)
  # One of no known rank, as in tests; the protected are never killed.
  def note(_rank, _now_ms), do: :ok

  @doc "Whether victims of the guard may still be on their way."
  @spec on_their_way?(integer()) :: boolean()
  def on_their_way?(now_ms), do: Tables.killed_since?(0, now_ms - @on_their_way_ms)

  @doc "Whether the guard is at it, and has just killed one of this rank or a higher one."
  @spec any?(Priority.rank(), integer()) :: boolean()
  def any?(:protected, _now_ms), do: false
  def any?(rank, now_ms), do: Tables.killed_since?(rank, now_ms - @at_it_ms)
end
