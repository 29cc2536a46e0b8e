defmodule OOM.Hold do
  @moduledoc false
  # A child held back, with the siblings its strategy takes down, as pure state: backoff, kills, failed
  # starts. The clock is passed in.

  alias OOM.Backoff

  # After so many failed starts in a row the operator has to look.
  @fails 3

  @enforce_keys [:supervisor, :id, :ids, :backoff]
  defstruct [
    :supervisor,
    :id,
    # in start order
    :ids,
    :backoff,
    # when the hold began
    :held_ms,
    :due_ms,
    # when the child was last released
    :released_ms,
    # the process that asks the supervisor for the start, while :releasing
    :releaser,
    # new at each change; see OOM.Holds.Store
    :version,
    bytes: 0,
    kills: 0,
    # failed starts, which lengthen the backoff as kills do
    failures: 0,
    # failed starts in a row, and the hash of the last logged reason
    failed_starts: 0,
    said: nil,
    # whether the lack of room was reported
    no_room?: false,
    max_kills: :infinity,
    # whether giving up was reported
    told?: false,
    state: :held,
    # how the supervisor is asked for the start
    return: :restart_child
  ]

  @typedoc """
  How to ask the supervisor for the start:

    * `:restart_child` - an OTP supervisor, which has kept the specification
    * `:restart_held` - an OOM.Supervisor, which starts only children still to come back
    * `{:start_child, request}` - a supervisor that forgets terminated children (DynamicSupervisor,
      `:simple_one_for_one`), and the request to send. The child gets its new pid as id.
    * `{:gen_restart, pid}` - a copy of DynamicSupervisor, which has kept the specification under the old pid
      (OOM.Visit.Copy). The child gets its new pid as id.
  """
  @type return ::
          :restart_child
          | :restart_held
          | {:start_child, request :: term()}
          | {:gen_restart, pid()}

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
          # :held; :given_up, until released by hand; :releasing while the supervisor is asked for the
          # start; :running afterwards, kept for stable_ms to tell a relapse from a first kill
          state: :held | :given_up | :releasing | :running,
          return: return()
        }

  @spec key(t()) :: key()
  def key(%__MODULE__{} = hold), do: {hold.supervisor, hold.id}

  @doc "Tells whether the child is down because of memory, also while its start is under way."
  @spec held?(t()) :: boolean()
  def held?(%__MODULE__{state: state}), do: state != :running

  @doc "Returns the hold after a kill: with a new backoff, or given up at `max_kills`."
  @spec killed(t(), non_neg_integer(), integer(), (... -> float())) :: t()
  def killed(%__MODULE__{} = hold, bytes, now_ms, random) do
    since = since(hold, now_ms)
    hold = %{hold | kills: hold.kills + 1, bytes: bytes, held_ms: since, releaser: nil}

    # In term order, any number is less than the atom :infinity.
    if hold.kills >= hold.max_kills,
      do: %{hold | state: :given_up, due_ms: nil},
      else: wait(hold, now_ms, random)
  end

  defp since(%{state: state, held_ms: since}, now_ms),
    do: if(state == :running or since == nil, do: now_ms, else: since)

  @doc "Returns the hold after a start refused because memory is short, which counts as a failed start."
  @spec turned_away(t(), integer(), (... -> float())) :: t()
  def turned_away(%__MODULE__{} = hold, now_ms, random),
    do: failed(%{hold | held_ms: since(hold, now_ms)}, now_ms, random)

  @doc "Returns the hold after a failed start, with a longer backoff. Failures alone never give up a hold."
  @spec failed(t(), integer(), (... -> float())) :: t()
  def failed(%__MODULE__{} = hold, now_ms, random),
    do: wait(%{hold | failures: hold.failures + 1, releaser: nil}, now_ms, random)

  @doc "Returns the hold after a start answered with an error, and notes the reason."
  @spec not_started(t(), term(), integer(), (... -> float())) :: t()
  def not_started(%__MODULE__{} = hold, reason, now_ms, random) do
    hold = %{hold | failed_starts: hold.failed_starts + 1, said: :erlang.phash2(reason)}
    failed(hold, now_ms, random)
  end

  @doc "Tells whether so many starts in a row have failed that waiting will not help."
  @spec fails?(t()) :: boolean()
  def fails?(%__MODULE__{} = hold), do: hold.failed_starts >= @fails

  defp wait(hold, now_ms, random) do
    delay = Backoff.delay_ms(max(hold.kills + hold.failures, 1), hold.backoff, random)
    %{hold | state: :held, due_ms: now_ms + delay}
  end

  @doc "Returns the hold without the children `ids`; `nil` where none is left. A running hold stays as it is."
  @spec without(t(), [term()]) :: t() | nil
  def without(%__MODULE__{state: :running} = hold, _ids), do: hold

  def without(%__MODULE__{} = hold, ids) do
    case hold.ids -- ids do
      [] -> nil
      rest -> %{hold | ids: rest}
    end
  end

  @doc "Returns the hold with the most kills and failures of itself and `others`."
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

  @doc "Returns the hold with `releaser` as the process that asks the supervisor."
  @spec releasing(t(), pid()) :: t()
  def releasing(%__MODULE__{} = hold, releaser),
    do: %{hold | state: :releasing, releaser: releaser}

  @doc "Returns the hold with its past forgotten, because the user has asked for the child."
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

  @doc "Returns the hold of a child killed again before its row was renamed, with the past in `before`."
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

  @doc "Returns the hold under the child's new pid, with its past."
  @spec renamed(t(), pid()) :: t()
  def renamed(%__MODULE__{} = hold, pid), do: %{hold | id: pid, ids: [pid]}

  @doc "Tells whether the child has lived for `stable_ms`, after which its past is forgotten."
  @spec stable?(t(), integer(), pos_integer()) :: boolean()
  def stable?(%__MODULE__{state: :running} = hold, now_ms, stable_ms),
    do: now_ms - hold.released_ms >= stable_ms

  def stable?(_hold, _now_ms, _stable_ms), do: false
end
