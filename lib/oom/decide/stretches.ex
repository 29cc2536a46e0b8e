defmodule OOM.Stretches do
  @moduledoc false
  # How long each suspended worker has stood at a stretch: pure. A worker that is not shown to grow stands for
  # no longer than `Limits.longest_stand_ms/0`, whatever the budget of a turn says.

  alias OOM.Limits

  @typedoc "Since when each worker stands, in ms."
  @type t :: %{pid() => integer()}

  @doc "Records that these workers stand now; a worker that stood before keeps the time it began."
  @spec begun(t(), [pid()], integer()) :: t()
  def begun(stretches, pids, now_ms),
    do: Map.new(pids, &{&1, Map.get(stretches, &1, now_ms)})

  @doc "Forgets the workers that were resumed."
  @spec only(t(), map()) :: t()
  def only(stretches, still), do: Map.filter(stretches, fn {pid, _} -> is_map_key(still, pid) end)

  @doc "Returns when the first worker that is not `shown` to grow has to run; `:infinity` where none has to."
  @spec due_ms(t(), map()) :: integer() | :infinity
  def due_ms(stretches, shown) do
    for {pid, since} <- stretches, not is_map_key(shown, pid), reduce: :infinity do
      first -> min(first, since + Limits.longest_stand_ms())
    end
  end

  @doc "Returns the workers, not `shown` to grow, that have to run by this time."
  @spec due(t(), map(), integer()) :: [pid()]
  def due(stretches, shown, by_ms) do
    for {pid, since} <- stretches,
        not is_map_key(shown, pid),
        since + Limits.longest_stand_ms() <= by_ms,
        do: pid
  end
end
