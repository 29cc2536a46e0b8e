defmodule OOM.Hold do
  @moduledoc false
  # One child (with what its strategy takes along) that is held back, as pure state: when it may
  # come back, and what it needs for that. The clock is passed in.

  alias OOM.Backoff

  @enforce_keys [:supervisor, :id, :ids, :backoff]
  defstruct [
    :supervisor,
    :id,
    # in start order
    :ids,
    :backoff,
    :due_ms,
    # when it was last released
    :released_ms,
    bytes: 0,
    kills: 0,
    state: :held,
    # how its supervisor is asked to start it again
    return: :restart_child
  ]

  @typedoc """
  `:restart_child` where the supervisor has kept the specification; `{:start_child, request}` where
  it forgets who is terminated (DynamicSupervisor, `:simple_one_for_one`): the request is what it is
  asked, and the child then has another id, its new pid.
  """
  @type return :: :restart_child | {:start_child, request :: term()}

  @type t :: %__MODULE__{
          supervisor: pid(),
          id: term(),
          ids: [term()],
          backoff: keyword(),
          due_ms: integer() | nil,
          released_ms: integer() | nil,
          bytes: non_neg_integer(),
          kills: non_neg_integer(),
          # :held; :releasing while its supervisor is asked to start it; :running afterwards, kept
          # for a while to tell a relapse from a first time
          state: :held | :releasing | :running,
          return: return()
        }

  @doc "Killed, for the first time or again."
  @spec killed(t(), non_neg_integer(), integer(), (... -> float())) :: t()
  def killed(%__MODULE__{} = hold, bytes, now_ms, random) do
    kills = hold.kills + 1
    due = now_ms + Backoff.delay_ms(kills, hold.backoff, random)
    %{hold | state: :held, kills: kills, bytes: bytes, due_ms: due}
  end

  @doc "Could not be started: waits again, longer."
  @spec failed(t(), integer(), (... -> float())) :: t()
  def failed(%__MODULE__{} = hold, now_ms, random), do: killed(hold, hold.bytes, now_ms, random)

  @doc "Without these children; `nil` when none is left."
  @spec without(t(), [term()]) :: t() | nil
  def without(%__MODULE__{} = hold, ids) do
    case hold.ids -- ids do
      [] -> nil
      rest -> %{hold | ids: rest}
    end
  end

  @doc "Takes over what `others` held."
  @spec absorb(t(), [t()]) :: t()
  def absorb(%__MODULE__{} = hold, others),
    do: %{hold | kills: Enum.max([hold.kills | Enum.map(others, & &1.kills)])}

  @doc "Was killed again before it was known to be the same as `before`: takes over its past."
  @spec relapsed(t(), t(), integer(), (... -> float())) :: t()
  def relapsed(%__MODULE__{} = hold, before, now_ms, random),
    do: killed(%{hold | kills: hold.kills + before.kills - 1}, hold.bytes, now_ms, random)

  @spec released(t(), integer()) :: t()
  def released(%__MODULE__{} = hold, now_ms), do: %{hold | state: :running, released_ms: now_ms}

  @doc "Came back as another: its past goes with it."
  @spec renamed(t(), pid()) :: t()
  def renamed(%__MODULE__{} = hold, pid), do: %{hold | id: pid, ids: [pid]}

  @doc "Whether it has lived long enough for its past to be forgotten."
  @spec stable?(t(), integer(), pos_integer()) :: boolean()
  def stable?(%__MODULE__{state: :running} = hold, now_ms, stable_ms),
    do: now_ms - hold.released_ms >= stable_ms

  def stable?(_hold, _now_ms, _stable_ms), do: false

  @doc """
  The next to come back, of those that are due: the one that waits longest, if what it last held
  fits into `room_bytes`. `nil` room means that no limit is known, and everything fits.

  One that has been due for as long as its longest backoff comes back whatever its size: it may
  not grow like that again, and one that fits nowhere would be gone for good.
  """
  @spec next([t()], integer(), integer() | nil) :: t() | nil
  def next(holds, now_ms, room_bytes) do
    holds
    |> Enum.filter(&(&1.state == :held and &1.due_ms <= now_ms))
    |> Enum.filter(&(room_bytes == nil or &1.bytes <= room_bytes or overdue?(&1, now_ms)))
    |> Enum.min_by(& &1.due_ms, fn -> nil end)
  end

  defp overdue?(hold, now_ms), do: now_ms - hold.due_ms >= hold.backoff[:max_ms]
end
