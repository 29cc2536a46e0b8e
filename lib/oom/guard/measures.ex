defmodule OOM.Guard.Measures do
  @moduledoc false
  # When the guard measures the memory free inside the VM (OOM.Slack), and how a measure counts. From the
  # first sign of pressure until pressure has passed, measures follow one another.

  alias OOM.{Limits, Native, Slack}

  # How long after a measure the next begins. Each measure costs the schedulers a moment.
  @pause_ms %{normal: 1_000, elevated: 500, high: 250, critical: 50}
  # Less slack than this decides nothing while all is normal.
  @matters_bytes 8 * 1_048_576
  # A working set that has moved by less since the last measure stands still.
  @at_rest_bytes 1_048_576

  # `unexplained_bytes`: resident memory beside the VM's blocks at the start. `at_bytes`: the working set at
  # the last measure. `next`: `:running`, the timer of the next measure, or `nil`.
  defstruct unexplained_bytes: nil, at_bytes: nil, next: nil

  @type t :: %__MODULE__{
          unexplained_bytes: integer() | nil,
          at_bytes: non_neg_integer() | nil,
          next: :running | reference() | nil
        }

  @doc "Starts a measure, unless a measure runs; OOM.Slack sends the result to the guard."
  @spec start(t(), Native.watcher() | nil) :: t()
  def start(%{next: :running} = measures, _watcher), do: measures
  def start(measures, nil), do: measures

  def start(measures, watcher) do
    measures = cancel(measures)
    Slack.start(self(), watcher)
    %{measures | next: :running}
  end

  @doc """
  Starts a measure later. A running measure misses memory freed from now on; another measure follows in time.
  """
  @spec start_in(t(), pos_integer()) :: t()
  def start_in(%{next: :running} = measures, _ms), do: measures

  def start_in(measures, ms),
    do: %{cancel(measures) | next: Process.send_after(self(), :measure, ms)}

  @doc "Records that the timer has fired."
  @spec due(t()) :: t()
  def due(measures), do: %{measures | next: nil}

  defp cancel(%{next: timer} = measures) do
    _ = if is_reference(timer), do: Process.cancel_timer(timer)
    %{measures | next: nil}
  end

  @doc """
  Records a measure: returns the slack that counts, and the change of the working set since the last measure.
  `:first` for the measure at the start, the base of all later measures; `nil` where memory is not known.
  """
  @spec taken(t(), Slack.measure() | nil, OOM.level()) ::
          {:first | nil | {slack_bytes :: non_neg_integer(), moved_bytes :: non_neg_integer()},
           t()}
  def taken(measures, nil, _level), do: {nil, %{measures | next: nil}}

  def taken(%{unexplained_bytes: nil} = measures, measure, _level),
    do: {:first, %{measures | unexplained_bytes: measure.unexplained_bytes, next: nil}}

  def taken(measures, measure, level) do
    slack = Slack.usable_bytes(measure, measures.unexplained_bytes)
    slack = if level == :normal and slack < @matters_bytes, do: 0, else: slack
    moved = abs(measure.working_set_bytes - (measures.at_bytes || 0))
    {{slack, moved}, %{measures | at_bytes: measure.working_set_bytes, next: nil}}
  end

  @doc """
  Returns the pause before the next measure, in ms; `nil` where none is due. `settled?`: the effect of the
  last kills is measured. `below_floor?`: the headroom alone is below the floor.
  """
  @spec pause_ms({non_neg_integer(), non_neg_integer()}, OOM.level(), boolean(), boolean()) ::
          pos_integer() | nil
  def pause_ms({slack, moved}, level, settled?, below_floor?) do
    cond do
      not settled? -> Limits.measure_after_ms()
      slack == 0 and level == :normal -> nil
      # Memory free inside the VM is the only room left, and growth that uses it up moves no working set.
      below_floor? -> @pause_ms.high
      moved < @at_rest_bytes -> at_rest_ms(slack)
      true -> @pause_ms[level]
    end
  end

  # Slack that counts has to be measured anew, or counts no more.
  defp at_rest_ms(0), do: Limits.measure_idle_ms()
  defp at_rest_ms(_slack), do: Limits.measure_at_rest_ms()
end
