defmodule OOM.Throttle.State do
  @moduledoc false
  # The throttle's state from turn to turn.

  alias OOM.{Experiment, Limits, Lineup, Native, Stretches}
  alias OOM.Throttle.{Sample, Suspended}
  alias OOM.Tree.Newborns

  @enforce_keys [:guard, :watcher]
  defstruct guard: nil,
            watcher: nil,
            # whether freed segments can be given back (OOM.Trim)
            trim?: false,
            turn: 0,
            # the workers that stand still
            still: %{},
            # the workers, and the findings on each
            line: %Lineup{},
            # since when each worker stands, when the first of them has to run, and the length of the last stand
            since: %{},
            due_ms: :infinity,
            stood_ms: 0,
            # the workers let go because they had stood for long, whether the present stand has had such workers,
            # the sample before the first of them ran, and when the throttle looks at memory again
            loose: [],
            loose?: false,
            loose_from: nil,
            watch_ms: :infinity,
            # the processes that leave fewer schedulers to the workers
            narrow: [],
            # the last run: {sample before, the workers, how long}
            ran: nil,
            # the turn in which each worker ran last
            ran_turn: %{},
            # the search for growth that no figure shows
            experiment: %Experiment{},
            # the searches for new workers under way
            searches: nil,
            # so many turns in a row without growth towards the floor
            calm: 0,
            # growth was seen among the workers left alone
            alert?: false

  @type t :: %__MODULE__{
          guard: reference(),
          watcher: Native.watcher(),
          trim?: boolean(),
          turn: non_neg_integer(),
          still: Suspended.t(),
          line: Lineup.t(),
          since: Stretches.t(),
          due_ms: integer() | :infinity,
          stood_ms: non_neg_integer(),
          loose: [pid()],
          loose_from: Sample.t() | nil,
          watch_ms: integer() | :infinity,
          narrow: [pid()],
          loose?: boolean(),
          ran: {Sample.t(), [pid()], pos_integer()} | nil,
          ran_turn: %{pid() => non_neg_integer()},
          experiment: Experiment.t(),
          searches: Newborns.searches() | nil,
          calm: non_neg_integer(),
          alert?: boolean()
        }

  @spec new(reference(), Native.watcher(), boolean()) :: t()
  def new(guard, watcher, trim?) do
    %__MODULE__{
      guard: guard,
      watcher: watcher,
      trim?: trim?,
      searches: Newborns.searches(),
      stood_ms: Limits.Turn.stand_ms()
    }
  end

  @doc "Returns the workers that do not stand yet."
  @spec busy(t()) :: [pid()]
  def busy(%{still: still}), do: Suspended.busy(still)

  @doc "Suspends these workers, besides those that stand already."
  @spec suspend(t(), [pid()]) :: t()
  def suspend(state, pids) do
    still = Enum.reduce(pids, state.still, &Suspended.suspend/2)
    since = Stretches.begun(state.since, Map.keys(still), System.monotonic_time(:millisecond))
    due(%{state | still: still, since: since})
  end

  @doc "Lets these workers run on, until the next stand."
  @spec resume(t(), [pid()]) :: t()
  def resume(state, pids) do
    still = Enum.reduce(pids, state.still, &Suspended.resume/2)
    %{state | still: still, loose: if(state.loose == [], do: [], else: state.loose -- pids)}
  end

  @doc """
  Sets anew which worker has to run first, after a change of the workers that stand or are shown to grow.
  """
  @spec due(t()) :: t()
  def due(state), do: %{state | due_ms: Stretches.due_ms(state.since, shown(state))}

  @doc "Returns the workers that will have stood for long enough by this time."
  @spec late(t(), integer()) :: MapSet.t(pid())
  def late(state, by_ms),
    do: state.since |> Stretches.due(shown(state), by_ms) |> MapSet.new()

  @doc "Returns the workers that may stand for longer: shown to grow, growing in each run alone so far, or new."
  @spec shown(t()) :: %{pid() => term()}
  def shown(%{line: line, experiment: experiment}),
    do: Map.merge(Lineup.shown(line), Experiment.suspects(experiment))
end
