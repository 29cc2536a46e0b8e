defmodule OOM.Hold do
  @moduledoc false
  # One child (with what its strategy takes along) that is held back, as pure state: when it may
  # come back, and what it needs for that. The clock is passed in.

  alias OOM.Backoff

  # After so many failures in a row somebody has to look.
  @fails 3

  @enforce_keys [:supervisor, :id, :ids, :backoff]
  defstruct [
    :supervisor,
    :id,
    # in start order
    :ids,
    :backoff,
    # since when it is held
    :held_ms,
    :due_ms,
    # when it was last released
    :released_ms,
    # who asks its supervisor to start it, while it is :releasing
    :releaser,
    # another one at each change; see OOM.Holds.Store
    :version,
    bytes: 0,
    kills: 0,
    # starts that failed, which wait as long as further kills
    failures: 0,
    # how many of them in a row, and which reason was said last
    failed_starts: 0,
    said: nil,
    # whether it was said that there is no room for it
    no_room?: false,
    max_kills: :infinity,
    # whether it was said that it is given up
    told?: false,
    state: :held,
    # how its supervisor is asked to start it again
    return: :restart_child
  ]

  @typedoc """
  `:restart_child` where the supervisor has kept the specification; `:restart_held` where it is an
  OOM.Supervisor, too, which starts what is still to come back; `{:start_child, request}` where
  it forgets who is terminated (DynamicSupervisor, `:simple_one_for_one`): the request is what it is
  asked, and the child then has another id, its new pid.
  """
  @type return :: :restart_child | :restart_held | {:start_child, request :: term()}

  @type key :: {supervisor :: pid(), id :: term()}

  @type t :: %__MODULE__{
          supervisor: pid(),
          id: term(),
          ids: [term()],
          backoff: keyword(),
          held_ms: integer() | nil,
          due_ms: integer() | nil,
          released_ms: integer() | nil,
          releaser: pid() | nil,
          version: integer() | nil,
          bytes: non_neg_integer(),
          kills: non_neg_integer(),
          failures: non_neg_integer(),
          failed_starts: non_neg_integer(),
          said: non_neg_integer() | nil,
          no_room?: boolean(),
          max_kills: pos_integer() | :infinity,
          told?: boolean(),
          # :held; :given_up, until somebody asks for it; :releasing while its supervisor is asked
          # to start it; :running afterwards, kept for a while to tell a relapse from a first time
          state: :held | :given_up | :releasing | :running,
          return: return()
        }

  @spec key(t()) :: key()
  def key(%__MODULE__{} = hold), do: {hold.supervisor, hold.id}

  @doc "Whether it is down because of memory, on its way back or not."
  @spec held?(t()) :: boolean()
  def held?(%__MODULE__{state: state}), do: state != :running

  @doc "Killed, for the first time or again; given up where that was once too often."
  @spec killed(t(), non_neg_integer(), integer(), (... -> float())) :: t()
  def killed(%__MODULE__{} = hold, bytes, now_ms, random) do
    since = since(hold, now_ms)
    hold = %{hold | kills: hold.kills + 1, bytes: bytes, held_ms: since, releaser: nil}

    # An atom is more than any number.
    if hold.kills >= hold.max_kills,
      do: %{hold | state: :given_up, due_ms: nil},
      else: wait(hold, now_ms, random)
  end

  defp since(%{state: state, held_ms: since}, now_ms),
    do: if(state == :running or since == nil, do: now_ms, else: since)

  @doc "Was not started, because memory is short: waits as one that could not be started."
  @spec turned_away(t(), integer(), (... -> float())) :: t()
  def turned_away(%__MODULE__{} = hold, now_ms, random),
    do: failed(%{hold | held_ms: since(hold, now_ms)}, now_ms, random)

  @doc "Could not be started: waits again, longer. It is not given up for that."
  @spec failed(t(), integer(), (... -> float())) :: t()
  def failed(%__MODULE__{} = hold, now_ms, random),
    do: wait(%{hold | failures: hold.failures + 1, releaser: nil}, now_ms, random)

  @doc "Its start was answered with an error: the same, and it is noted which."
  @spec not_started(t(), term(), integer(), (... -> float())) :: t()
  def not_started(%__MODULE__{} = hold, reason, now_ms, random) do
    hold = %{hold | failed_starts: hold.failed_starts + 1, said: :erlang.phash2(reason)}
    failed(hold, now_ms, random)
  end

  @doc "Whether its start has failed so often in a row that it will not pass by itself."
  @spec fails?(t()) :: boolean()
  def fails?(%__MODULE__{} = hold), do: hold.failed_starts >= @fails

  defp wait(hold, now_ms, random) do
    delay = Backoff.delay_ms(max(hold.kills + hold.failures, 1), hold.backoff, random)
    %{hold | state: :held, due_ms: now_ms + delay}
  end

  @doc "Without these children; `nil` when none is left. One that runs again holds none of them."
  @spec without(t(), [term()]) :: t() | nil
  def without(%__MODULE__{state: :running} = hold, _ids), do: hold

  def without(%__MODULE__{} = hold, ids) do
    case hold.ids -- ids do
      [] -> nil
      rest -> %{hold | ids: rest}
    end
  end

  @doc "Takes over what `others` held."
  @spec absorb(t(), [t()]) :: t()
  def absorb(%__MODULE__{} = hold, others) do
    Enum.reduce(others, hold, fn other, hold ->
      %{
        hold
        | kills: max(hold.kills, other.kills),
          failures: max(hold.failures, other.failures)
      }
    end)
  end

  @doc "`releaser` asks its supervisor from now on."
  @spec releasing(t(), pid()) :: t()
  def releasing(%__MODULE__{} = hold, releaser),
    do: %{hold | state: :releasing, releaser: releaser}

  @doc "Somebody has decided that it may come back: its past is forgotten."
  @spec pardoned(t()) :: t()
  def pardoned(%__MODULE__{} = hold) do
    %{
      hold
      | kills: 0,
        failures: 0,
        failed_starts: 0,
        said: nil,
        no_room?: false,
        told?: false
    }
  end

  @doc "Was killed again before it was known to be the same as `before`: takes over its past."
  @spec relapsed(t(), t(), integer(), (... -> float())) :: t()
  def relapsed(%__MODULE__{} = hold, before, now_ms, random) do
    failures = hold.failures + before.failures
    kills = hold.kills + before.kills - 1
    hold = %{hold | kills: kills, failures: failures, no_room?: before.no_room?}
    killed(hold, hold.bytes, now_ms, random)
  end

  @spec released(t(), integer()) :: t()
  def released(%__MODULE__{} = hold, now_ms),
    do: %{hold | state: :running, released_ms: now_ms, releaser: nil, failed_starts: 0, said: nil}

  @doc "Came back as another: its past goes with it."
  @spec renamed(t(), pid()) :: t()
  def renamed(%__MODULE__{} = hold, pid), do: %{hold | id: pid, ids: [pid]}

  @doc "Whether it has lived long enough for its past to be forgotten."
  @spec stable?(t(), integer(), pos_integer()) :: boolean()
  def stable?(%__MODULE__{state: :running} = hold, now_ms, stable_ms),
    do: now_ms - hold.released_ms >= stable_ms

  def stable?(_hold, _now_ms, _stable_ms), do: false
end
