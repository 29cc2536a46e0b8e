defmodule OOM.Throttle.Narrow do
  @moduledoc false
  # Leaves fewer schedulers to all but the guard's processes for a moment. A worker takes 16 MB and more in one turn,
  # and as many turns run at once as there are schedulers: two workers let go together took 40 MB. On each other
  # scheduler a process of top priority does nothing but yield, as in a sweep (OOM.Sweep).

  alias OOM.Limits.Turn
  alias OOM.{Schedulers, Slices}
  alias OOM.Throttle.{Sample, State}

  @doc """
  Leaves as many schedulers as one turn of each of these workers fits into the headroom, and at least one, while
  the workers run.
  """
  @spec run(State.t(), [pid()], Sample.t()) :: State.t()
  def run(state, pids, _sample) when length(pids) < 2, do: state
  def run(state, _pids, %{headroom_bytes: nil}), do: state

  def run(state, pids, %{headroom_bytes: headroom, floor_bytes: floor}) do
    schedulers = :erlang.system_info(:schedulers_online)
    turn = Slices.unknown_bytes(state.line.costs)
    fits = max(div(headroom - div(floor, 2), turn), 1)

    if min(length(pids), schedulers) > fits and state.narrow == [],
      do: %{state | narrow: start(fits + 1, schedulers)},
      else: state
  end

  @doc "Leaves all schedulers again, because the workers stand."
  @spec stop(State.t()) :: State.t()
  def stop(state) do
    for pid <- state.narrow, do: Process.exit(pid, :kill)
    %{state | narrow: []}
  end

  defp start(first, last) do
    until_ms = now() + Turn.shortest_ms() + Turn.settle_ms()
    # No range: a module of Elixir's walks ranges, and the first caller would load the module.
    for scheduler <- :lists.seq(first, last),
        do: Schedulers.spawn_on(scheduler, __MODULE__, :yield, [until_ms])
  end

  @doc false
  @spec yield(integer()) :: :ok
  def yield(until_ms) do
    :erlang.yield()
    if now() < until_ms, do: yield(until_ms), else: :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
