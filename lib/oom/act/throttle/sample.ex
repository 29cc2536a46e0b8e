defmodule OOM.Throttle.Sample do
  @moduledoc false
  # The watcher's report on memory at a moment of the throttle's turn, and the change between two.

  alias OOM.Native

  @type t :: %{
          at_ms: integer(),
          headroom_bytes: integer() | nil,
          # the least of the last 10 s
          least_headroom_bytes: integer() | nil,
          floor_bytes: non_neg_integer() | nil,
          slack_bytes: non_neg_integer(),
          drift_bytes_per_s: integer()
        }

  @spec take(Native.watcher()) :: t()
  def take(watcher) do
    report = Native.watcher_report(watcher)

    %{
      at_ms: System.monotonic_time(:millisecond),
      headroom_bytes: report.headroom_bytes,
      least_headroom_bytes: least(report),
      floor_bytes: report.critical_headroom_bytes,
      slack_bytes: report.slack_bytes || 0,
      drift_bytes_per_s: report.drift_bytes_per_s || 0
    }
  end

  defp least(%{headroom_bytes: headroom, working_set_bytes: used, peak_bytes: peak})
       when is_integer(headroom),
       do: headroom + used - peak

  defp least(_no_limit), do: nil

  # How long a new sample may take, in ms. The watcher's thread wakes within 0.1 ms, if a CPU is free.
  @fresh_ms 5

  @doc "Returns a report on memory as of now. The latest report may be older by the watcher's interval."
  @spec fresh(Native.watcher()) :: t()
  def fresh(watcher) do
    before = Native.watcher_samples(watcher)
    Native.watcher_sample(watcher)
    await(watcher, before, System.monotonic_time(:millisecond) + @fresh_ms)
    take(watcher)
  end

  defp await(watcher, before, until_ms) do
    if Native.watcher_samples(watcher) == before and
         System.monotonic_time(:millisecond) < until_ms do
      :erlang.yield()
      await(watcher, before, until_ms)
    end
  end

  @doc """
  Returns the room above the floor, in bytes. Memory free inside the VM counts too, unless the system has next
  to nothing left.
  """
  @spec distance(t()) :: non_neg_integer()
  def distance(%{headroom_bytes: headroom, floor_bytes: floor, slack_bytes: slack})
      when is_integer(headroom) do
    slack = if headroom > div(floor, 2), do: slack, else: 0
    max(headroom + slack - floor, 0)
  end

  def distance(_no_limit), do: 0

  @doc "Returns the headroom above the floor in bytes, now and the least of the last seconds; below 0 below the floor."
  @spec room(t()) :: {integer(), integer()}
  def room(%{headroom_bytes: headroom, least_headroom_bytes: least, floor_bytes: floor})
      when is_integer(headroom),
      do: {headroom - floor, least - floor}

  def room(_no_limit), do: {0, 0}

  @doc "Returns the growth of memory in bytes; negative where memory has shrunk."
  @spec moved(t(), t()) :: integer()
  def moved(%{headroom_bytes: before}, %{headroom_bytes: now})
      when is_integer(before) and is_integer(now),
      do: before - now

  def moved(_unknown, _sample), do: 0

  @spec grown(t(), t()) :: non_neg_integer()
  def grown(from, to), do: max(moved(from, to), 0)

  @doc "Returns the growth in bytes a second."
  @spec rate(t(), t()) :: non_neg_integer()
  def rate(from, to), do: div(grown(from, to) * 1_000, max(to.at_ms - from.at_ms, 1))
end
