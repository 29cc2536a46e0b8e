defmodule OOM.RecentKills do
  @moduledoc false
  # When the guard last killed a worker of each rank: one small row per rank, so no sweep is needed. The rows
  # tell whether victims may still be on their way, and which ranks the guard would kill next.

  alias OOM.{Priority, Tables}

  # How long victims count as on the way: more than twice the default grace of a worker that traps
  # exits. The memory of slower victims counts as used.
  @on_their_way_ms 250
  # How long after a kill the guard is taken to go on, and to kill new workers.
  @at_it_ms 1_000

  @spec note(Priority.rank(), integer()) :: :ok
  def note(rank, now_ms) when is_integer(rank), do: Tables.put_killed(rank, now_ms)
  # No known rank, as in tests; protected workers are never killed.
  def note(_rank, _now_ms), do: :ok

  @doc "Tells whether victims of the guard may still be on the way."
  @spec on_their_way?(integer()) :: boolean()
  def on_their_way?(now_ms), do: Tables.killed_since?(0, now_ms - @on_their_way_ms)

  @doc "Tells whether the guard has just killed a worker of `rank` or higher, and may go on."
  @spec any?(Priority.rank(), integer()) :: boolean()
  def any?(:protected, _now_ms), do: false
  def any?(rank, now_ms), do: Tables.killed_since?(rank, now_ms - @at_it_ms)
end
