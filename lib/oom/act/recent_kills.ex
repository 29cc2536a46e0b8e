defmodule OOM.RecentKills do
  @moduledoc false
  # When the guard last killed one of each rank: one small row per rank, which nobody has to sweep. It
  # tells whether victims may still be on their way, and whom the guard would end next.

  alias OOM.{Priority, Tables}

  # Within this time after a kill the guard is taken to be at it: a victim that frees much, or that
  # traps exits, takes hundreds of ms.
  @at_it_ms 1_000

  @spec note(Priority.rank(), integer()) :: :ok
  def note(rank, now_ms) when is_integer(rank), do: Tables.put_killed(rank, now_ms)
  # One of no known rank, as in tests; the protected are never killed.
  def note(_rank, _now_ms), do: :ok

  @doc "Whether the guard is at it, and has just killed one of this rank or a higher one."
  @spec any?(Priority.rank(), integer()) :: boolean()
  def any?(:protected, _now_ms), do: false
  def any?(rank, now_ms), do: Tables.killed_since?(rank, now_ms - @at_it_ms)
end
