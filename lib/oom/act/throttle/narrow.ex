defmodule OOM.Throttle.Narrow do
  @moduledoc false
  # Leaves one scheduler to all but the guard's processes for a moment. A worker takes 16 MB and more in one turn,
  # and as many turns run at once as there are schedulers: two workers let go together took 40 MB. On each other
  # scheduler a process of top priority does nothing but yield, as in a sweep (OOM.Sweep).

  alias OOM.Limits.Turn
  alias OOM.Slices
  alias OOM.Throttle.{Sample, State}

  @doc "Leaves one scheduler while these workers run, where one turn of each would not fit into the headroom."
  @spec run(State.t(), [pid()], Sample.t()) :: :ok
  def run(_state, pids, _sample) when length(pids) < 2, do: :ok
  def run(_state, _pids, %{headroom_bytes: nil}), do: :ok

  def run(state, pids, %{headroom_bytes: headroom, floor_bytes: floor}) do
    schedulers = :erlang.system_info(:schedulers_online)
    at_once = min(length(pids), schedulers) * Slices.unknown_bytes(state.line.costs)
    if at_once > headroom - div(floor, 2), do: start(schedulers)
    :ok
  end

  defp start(schedulers) do
    until_ms = now() + Turn.shortest_ms() + Turn.settle_ms()
    # No range: a module of Elixir's walks ranges, and the first caller would load the module.
    for scheduler <- :lists.seq(2, schedulers), do: yield_on(scheduler, until_ms)
  end

  defp yield_on(scheduler, until_ms) do
    # OTP does not document the option, and dialyzer goes by the documented ones.
    spawn_opt = :erlang.make_fun(:erlang, :spawn_opt, 4)
    spawn_opt.(__MODULE__, :yield, [until_ms], scheduler: scheduler, priority: :max)
  end

  @doc false
  @spec yield(integer()) :: :ok
  def yield(until_ms) do
    :erlang.yield()
    if now() < until_ms, do: yield(until_ms), else: :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
