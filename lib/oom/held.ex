defmodule OOM.Held do
  @moduledoc """
  A held child: killed because of memory, or not started at `:critical`, and not yet back.
  `OOM.held/0` lists all held children.

    * `:supervisor` - the pid of the child's supervisor
    * `:id` - the child's id there; where the supervisor gives none (`DynamicSupervisor`), the last pid
    * `:ids` - all children down together that come back together, in start order: the child, and the
      siblings restarted with it by the supervisor's strategy
    * `:bytes` - the child's size in bytes at the kill; 0 where unknown, or where the child was not started
    * `:kills` - the number of kills since the child last lived for `stable_ms`
    * `:max_kills` - the number of kills after which the child is given up, or `:infinity`
    * `:failures` - the number of failed starts since then, and of starts put off because memory was critical
    * `:state` - `:waiting` for the backoff to pass; `:due`, waiting for room;
      `:returning`, being started; `:given_up`, until `OOM.release/1`
    * `:due_in_ms` - the rest of the backoff; 0 for a `:due` child, `nil` while `:returning` or `:given_up`
    * `:held_ms` - for how long the child has been down
  """

  alias OOM.Hold

  @enforce_keys [
    :supervisor,
    :id,
    :ids,
    :bytes,
    :kills,
    :max_kills,
    :failures,
    :state,
    :due_in_ms,
    :held_ms
  ]
  defstruct @enforce_keys

  @type state :: :waiting | :due | :returning | :given_up
  @type t :: %__MODULE__{
          supervisor: pid(),
          id: term(),
          ids: [term()],
          bytes: non_neg_integer(),
          kills: non_neg_integer(),
          max_kills: pos_integer() | :infinity,
          failures: non_neg_integer(),
          state: state(),
          due_in_ms: non_neg_integer() | nil,
          held_ms: non_neg_integer()
        }

  @doc false
  @spec from_hold(Hold.t(), integer()) :: t()
  def from_hold(%Hold{} = hold, now_ms) do
    {state, due_in_ms} = state(hold, now_ms)

    %__MODULE__{
      supervisor: hold.supervisor,
      id: hold.id,
      ids: hold.ids,
      bytes: hold.bytes,
      kills: hold.kills,
      max_kills: hold.max_kills,
      failures: hold.failures,
      state: state,
      due_in_ms: due_in_ms,
      held_ms: now_ms - (hold.held_ms || now_ms)
    }
  end

  defp state(%{state: :held, due_ms: due}, now_ms) when due <= now_ms, do: {:due, 0}
  defp state(%{state: :held, due_ms: due}, now_ms), do: {:waiting, due - now_ms}
  defp state(%{state: :releasing}, _now_ms), do: {:returning, nil}
  defp state(%{state: :given_up}, _now_ms), do: {:given_up, nil}
end
