defmodule OOM.EndedGrowth do
  @moduledoc false
  # The growth that the last victims were shown to have: pure. The growth still explains recent growth of
  # memory. Otherwise a worker with a little recent growth, such as a neighbour that has just been filled,
  # would be the cause as soon as the fastest workers are dead.

  alias OOM.{Evidence, Limits}

  defstruct total_bytes: 0, fastest_bytes: 0, at_ms: 0

  @type t :: %__MODULE__{
          total_bytes: non_neg_integer(),
          fastest_bytes: non_neg_integer(),
          at_ms: integer()
        }

  @doc "Adds the growth of victims that were told to leave."
  @spec told(t(), [OOM.VictimQueue.victim()], integer()) :: t()
  def told(ended, victims, now_ms) do
    grown = Enum.map(victims, & &1.grown_bytes)
    left = at(ended, now_ms)

    %__MODULE__{
      total_bytes: left.total_bytes + Enum.sum(grown),
      fastest_bytes: Enum.max([left.fastest_bytes | grown]),
      at_ms: now_ms
    }
  end

  @doc "Returns the growth that still counts at `now_ms`: it fades like the growth of live workers."
  @spec at(t(), integer()) :: t()
  def at(ended, now_ms) do
    since_ms = max(now_ms - ended.at_ms, 0)
    fade = &Evidence.faded(&1, since_ms, Limits.grown_ms())

    %{
      ended
      | total_bytes: fade.(ended.total_bytes),
        fastest_bytes: fade.(ended.fastest_bytes),
        at_ms: now_ms
    }
  end
end
