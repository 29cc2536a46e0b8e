defmodule OOM.Guard.Reaction do
  @moduledoc false
  # The guard's acts when memory is needed: it trims, orders victims to leave, sweeps for their memory, and
  # reports when nothing helps. OOM.Policy decides; this module carries out, in the guard.

  alias OOM.{Kill, Limits, Policy, Promises, Reporter, Sweep, Trim, VictimQueue}
  alias OOM.Guard.Measures
  alias OOM.Tree.Census

  # While critical, freed memory is cached again at once. Given back this often, half as much again fits below
  # the limit as with a trim each 100 ms (bench/trim.exs).
  @trim_again_ms 10

  @typedoc "The parts of the guard's state that a reaction reads and changes."
  @type state :: %{
          required(:config) => OOM.Config.t(),
          required(:policy) => Policy.t(),
          required(:trimmed_ms) => integer() | nil,
          required(:sweep) => Sweep.t(),
          required(:sweep_timer) => reference() | nil,
          required(:measures) => Measures.t(),
          optional(atom()) => term()
        }

  @doc "Reacts to a sample at which memory may be needed."
  @spec run(OOM.Need.report(), state()) :: state()
  def run(report, state) do
    state = state |> trim_again() |> sweep()

    case Policy.decide(state.policy, report, now()) do
      {:wait, policy} ->
        given_up(report, state, policy)

      {:trim, policy} ->
        trim(%{state | policy: policy})

      {{:trim_and_kill, need}, policy} ->
        kill(need, report, trim(%{state | policy: policy}))

      {{:kill, need}, policy} ->
        kill(need, report, %{state | policy: policy})
    end
  end

  @doc "Sweeps, from the order to leave until the memory of the victims is back."
  @spec sweep(state()) :: state()
  def sweep(%{policy: policy} = state) do
    now = now()
    sweep = Sweep.start(state.sweep, Promises.leave_ms(policy.promises, now), now)
    sweep_again(%{state | sweep: sweep})
  end

  # Ticks may end before all memory of the victims is back.
  defp sweep_again(%{sweep_timer: nil} = state) do
    if Sweep.over?(state.sweep),
      do: state,
      else: %{state | sweep_timer: Process.send_after(self(), :sweep, Limits.sweep_every_ms())}
  end

  defp sweep_again(state), do: state

  # Trims while victims leave, besides the trims for which a decision waits.
  defp trim_again(%{trimmed_ms: last, policy: policy} = state) do
    due? = last != nil and now() - last >= @trim_again_ms
    if due? and policy.promises.leaving != %{}, do: trim(state), else: state
  end

  defp trim(state) do
    Trim.start()
    %{state | trimmed_ms: now()}
  end

  defp kill(_need, report, %{config: %{kill: false}} = state),
    do: given_up(report, state, Policy.nobody(state.policy, :none, report, now()))

  defp kill(need, report, %{policy: policy, config: config} = state) do
    now = now()
    limits = Policy.limits(policy, need, report, config.min_victim_bytes, now)

    {victims, verdict} = VictimQueue.choose(limits)
    # Workers that no walk has found yet may be the cause.
    if verdict in [:crowd, :late, :none], do: Census.search()

    case victims do
      [] ->
        given_up(report, state, Policy.nobody(policy, verdict, report, now))

      _some ->
        urgent? = urgent?(report, config.grace_ms)

        for %{pid: pid} = victim <- victims do
          Process.monitor(pid)
          Kill.begin(pid, victim.supervisor, victim.bytes, now, config.grace_ms, urgent?)
        end

        Reporter.killed(victims, need, report)
        state = sweep(%{state | policy: Policy.killed(policy, victims, verdict, report, now)})
        %{state | measures: Measures.start_in(state.measures, Limits.measure_after_ms())}
    end
  end

  # The grace of a victim that works on takes more than is left.
  defp urgent?(%{headroom_bytes: headroom} = report, grace_ms) do
    growth = max(report.growth_bytes_per_s || 0, 0)
    headroom < report.critical_headroom_bytes or growth * grace_ms * 2 > headroom * 1_000
  end

  # The reporter is told once, at the moment killing is given up.
  defp given_up(report, state, policy) do
    if Policy.exhausted?(policy) and not Policy.exhausted?(state.policy),
      do: Reporter.exhausted(report, state.config.on_exhausted)

    %{state | policy: policy}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
