defmodule OOM.Stretches do
  @moduledoc false
  # How long each of those that the throttle made to stand has stood at a stretch: pure. Who is not shown to
  # grow stands for no longer than Limits.longest_stand_ms, whatever a budget says.

  alias OOM.Limits

  @typedoc "Since when each stands, in ms."
  @type t :: %{pid() => integer()}

  @doc "These stand now; those among them that stood before do so since then."
  @spec begun(t(), [pid()], integer()) :: t()
  def begun(stretches, pids, now_ms),
    do: Map.new(pids, &{&1, Map.get(stretches, &1, now_ms)})

  @doc "Those still in a stretch; the others were let run."
  @spec only(t(), map()) :: t()
  def only(stretches, still), do: Map.filter(stretches, fn {pid, _} -> is_map_key(still, pid) end)

  @doc "When the first of those that are not `shown` to grow has to run; `:infinity` where none has to."
  @spec due_ms(t(), map()) :: integer() | :infinity
  def due_ms(stretches, shown) do
    for {pid, since} <- stretches, not is_map_key(shown, pid), reduce: :infinity do
      first -> min(first, since + Limits.longest_stand_ms())
    end
  end

  @doc "Who of those that are not `shown` to grow has to run by then."
  @spec due(t(), map(), integer()) :: [pid()]
  def due(stretches, shown, by_ms) do
    for {pid, since} <- stretches,
        not is_map_key(shown, pid),
        since + Limits.longest_stand_ms() <= by_ms,
        do: pid
  end
end
