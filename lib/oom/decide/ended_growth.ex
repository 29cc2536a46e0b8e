defmodule OOM.EndedGrowth do
  @moduledoc false
  # The growth that the last victims were shown to have: pure. It goes on to explain what memory has grown by
  # lately. Without it whoever has grown a little lately, such as a neighbour that has just been filled, would be
  # the cause as soon as the fastest are dead.

  alias OOM.{Evidence, Limits}

  defstruct total_bytes: 0, fastest_bytes: 0, at_ms: 0

  @type t :: %__MODULE__{
          total_bytes: non_neg_integer(),
          fastest_bytes: non_neg_integer(),
          at_ms: integer()
        }

  @doc "These were told to leave."
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

  @doc "As much of it as counts now: it fades like the growth of those that live."
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
