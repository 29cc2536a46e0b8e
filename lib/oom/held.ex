defmodule OOM.Held do
  @moduledoc """
  A child that is held: killed because of memory, or not started because of it, and not yet back. `OOM.held/0` lists them.

    * `:supervisor` - the pid of its supervisor
    * `:id` - its id there; where the supervisor gives none (`DynamicSupervisor`), the pid it had
    * `:ids` - all that are down and come back with it, in start order: itself, and what its
      supervisor's strategy restarts together with it
    * `:bytes` - what it held when it was killed; 0 where that is not known, or it was not started
    * `:kills` - how often it was killed since it last lived for `stable_ms`
    * `:max_kills` - after how many it is given up, or `:infinity`
    * `:failures` - how often it could not be started, or was not because memory was critical, since
      then
    * `:state` - `:waiting` for its backoff to pass; `:due`, waiting for room;
      `:returning`, being started; `:given_up`, until `OOM.release/1`
    * `:due_in_ms` - until its backoff has passed; 0 for one that is due, `nil` for others
    * `:held_ms` - for how long it has been down
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
