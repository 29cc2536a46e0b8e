defmodule OOM.Guard do
  @moduledoc false
  # Owns the watcher, publishes the level, and reacts. It runs at top priority with its heap
  # allocated up front, reads the plan that others keep, sends signals and spawns, and asks no
  # process anything. What is slow (logs, subscribers, callbacks) others do.

  use GenServer

  alias OOM.{
    Accountant,
    Asker,
    Kill,
    Level,
    Limits,
    Native,
    Notifier,
    Plan,
    Policy,
    Promises,
    Reporter,
    Tables,
    Throttle,
    VictimQueue
  }

  alias OOM.{Shed, Slack, Steps, Sweep, Trim}

  @retry_ms 5_000
  # Room for a batch, its figures and the reports, so that the reaction does not collect garbage.
  @min_heap_words 50_000
  # How long after one measure of slack the next begins. Each costs the schedulers a moment.
  @measure_ms %{normal: 1_000, elevated: 500, high: 250, critical: 50}
  # While critical, what the dead and the living let go is cached again at once. Given back this
  # often, half as much again fits below the limit as with a trim each 100 ms (bench/trim.exs).
  @trim_again_ms 10
  # Less slack than this decides nothing while all is normal.
  @slack_matters_bytes 8 * 1_048_576
  # A working set that has moved by less since the last measure stands still.
  @at_rest_bytes 1_048_576
  # So long after a throttle that ended no other begins; the second where the growth was nobody's.
  @throttle_again_ms 5
  @throttle_foreign_ms 500
  # A tick after so long without one: memory begins to move, and others look after long pauses.
  @begins_ms 1_500
  # The report of no watcher.
  @unknown %{level: :normal, source: nil, headroom_bytes: nil, growth_bytes_per_s: nil}

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config) do
    # Elixir's type of the options has no priority :max.
    :gen_server.start_link({:local, __MODULE__}, __MODULE__, config,
      spawn_opt: [priority: :max, min_heap_size: @min_heap_words, message_queue_data: :off_heap]
    )
  end

  @doc "New figures are in, and the watcher may see no reason to tick yet. Sent, not asked."
  @spec look() :: :ok
  def look, do: tell(:look)

  @doc "The same, from the throttle, with the growth while all that may grow stood still."
  @spec look(pid(), non_neg_integer()) :: :ok
  def look(throttle, standing_bytes_per_s), do: tell({:look, throttle, standing_bytes_per_s})

  defp tell(message) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, message)
    :ok
  end

  @impl true
  def init(config) do
    state = %{
      config: config,
      watcher: nil,
      policy: Policy.new(false),
      throttle: nil,
      # no other throttle begins before this time
      throttle_ms: nil,
      ticked_ms: nil,
      trimmed_ms: nil,
      sweep: Sweep.new(),
      sweep_timer: nil,
      level: :normal,
      # what resident memory held besides the VM's blocks at the start, see OOM.Slack
      unexplained_bytes: nil,
      # the working set at the last measure
      measured_at_bytes: nil,
      # :running, the timer of the next one, or nil
      measure: nil
    }

    # Before anything of the user's starts there is a first sample.
    {:ok, watch(state)}
  end

  @impl true
  def handle_info({:oom_watch, :tick, report}, state) do
    state = tick(report, step(state))
    Native.watcher_ack(state.watcher)
    {:noreply, begins(report, state)}
  end

  def handle_info({:oom_watch, :level, report}, state), do: {:noreply, level(report, step(state))}

  def handle_info({:oom_watch, :problem, message}, state) do
    Reporter.problem(message)
    {:noreply, state}
  end

  # The watcher's thread is gone: nothing is watched. Another takes its place at once.
  def handle_info({:oom_watch, :down, message}, state) do
    Reporter.problem("the watcher stopped: #{message}")
    {:noreply, watch(%{state | watcher: nil})}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{throttle: %{ref: ref}} = state) do
    foreign? = reason == {:shutdown, :foreign}
    pause_ms = if foreign?, do: @throttle_foreign_ms, else: @throttle_again_ms
    policy = Policy.foreign(state.policy, foreign?)
    {:noreply, %{state | policy: policy, throttle: nil, throttle_ms: now() + pause_ms}}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    bytes = Promises.leaving_bytes(state.policy.promises, pid)
    Sweep.freed(state.sweep, bytes)
    {last?, policy} = Policy.gone(state.policy, pid, now())
    if last? and policy.trim?, do: Trim.start()
    {:noreply, sweep(%{state | policy: policy})}
  end

  # A victim has its order, and must be able to follow it.
  def handle_info({:told, pid}, state) do
    Throttle.release(state.throttle, [pid])
    {:noreply, state}
  end

  # It would have taken along one that is worth more, and lives.
  def handle_info({:spared, pid, _rank}, state),
    do: {:noreply, %{state | policy: Policy.taken_back(state.policy, pid)}}

  # The throttle has read all that stand still, and tells what grew meanwhile.
  def handle_info({:look, pid, standing}, %{throttle: %{pid: pid}} = state),
    do: handle_info(:look, put_in(state.throttle[:standing_bytes_per_s], standing))

  # New figures may show a step that does not fit, and while growth stands still nothing else would.
  def handle_info(:look, %{watcher: watcher} = state) when watcher != nil do
    case Native.watcher_report(watcher) do
      %{headroom_bytes: headroom} = report when is_integer(headroom) ->
        {:noreply, tick(report, step(state))}

      _unknown ->
        {:noreply, state}
    end
  end

  def handle_info({:slack, measure}, state), do: {:noreply, measured(measure, state)}
  def handle_info(:measure, state), do: {:noreply, measure(%{state | measure: nil})}
  def handle_info(:sweep, state), do: {:noreply, sweep(%{state | sweep_timer: nil})}
  def handle_info(:watch, state), do: {:noreply, watch(state)}
  def handle_info(_other, state), do: {:noreply, state}

  defp level(report, state) do
    from = state.level
    Level.put(report.level)
    if report.level != from, do: Notifier.level(from, report)
    Asker.level(report.level)
    Shed.level(report.level)
    Accountant.pressure(report.level, report.growth_bytes_per_s)
    state = measure(%{state | level: report.level})

    cond do
      report.level == :critical ->
        tick(report, state)

      Level.number(report.level) > Level.number(from) ->
        # On the way up, before anyone has to die.
        if state.policy.trim?, do: Trim.start()
        state

      true ->
        %{state | policy: Policy.relieved(state.policy)}
    end
  end

  defp begins(report, %{ticked_ms: last} = state) do
    now = now()

    if last == nil or now - last > @begins_ms,
      do: Accountant.pressure(report.level, report.growth_bytes_per_s)

    %{state | ticked_ms: now}
  end

  # Ticks come before critical, too, when growth would reach the floor soon.
  defp tick(report, %{throttle: throttle} = state) do
    standing = throttle && Map.get(throttle, :standing_bytes_per_s, 0)
    looked(Map.put(report, :standing_bytes_per_s, standing), state)
  end

  defp looked(%{level: level, headroom_bytes: headroom} = report, state)
       when is_integer(headroom) do
    if level == :critical or Policy.need_bytes(state.policy, report, now()) > 0,
      do: react(report, state),
      else: throttle(report, %{state | policy: Policy.unneeded(state.policy)})
  end

  defp looked(_no_limit, state), do: state

  defp step(state) do
    policy = Policy.throttled(state.policy, state.throttle != nil)
    policy = Policy.largest(policy, Plan.largest_bytes())
    %{state | policy: Policy.steps(policy, Steps.largest())}
  end

  defp throttle(report, %{throttle: nil, config: %{kill: true}} = state) do
    # Steps that do not fit together do not wait for the growth of others to end.
    due? =
      state.throttle_ms == nil or now() >= state.throttle_ms or
        (state.policy.foreign? and Policy.crowded?(state.policy, report))

    if due? and Policy.throttle?(state.policy, report) do
      state = if episode_over?(state), do: next_episode(state), else: state
      %{state | throttle: Throttle.start(state.watcher)}
    else
      state
    end
  end

  defp throttle(_report, state), do: state

  defp next_episode(state) do
    Level.next_episode()
    %{state | policy: Policy.foreign(state.policy, false)}
  end

  defp episode_over?(%{throttle_ms: nil}), do: true
  defp episode_over?(%{throttle_ms: last}), do: now() - last > Limits.episode_ms()

  defp react(report, state) do
    state = report |> throttle(state) |> trim_again() |> sweep()

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

  # Besides the trims that are waited for, while victims leave.
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

    case VictimQueue.choose(limits) do
      {[], verdict} ->
        given_up(report, state, Policy.nobody(policy, verdict, report, now))

      {victims, verdict} ->
        for victim <- victims do
          Process.monitor(victim.pid)
          Kill.begin(victim.pid, victim.supervisor, victim.bytes, now, config.grace_ms)
        end

        Reporter.killed(victims, need, report)
        state = %{state | policy: Policy.killed(policy, victims, verdict, report, now)}
        measure_in(Limits.measure_after_ms(), sweep(state))
    end
  end

  # From the order to leave until their memory is back.
  defp sweep(%{policy: policy} = state) do
    now = now()
    sweep = Sweep.start(state.sweep, Promises.leave_ms(policy.promises, now), now)
    sweep_again(%{state | sweep: sweep})
  end

  # Ticks may end before it is all back.
  defp sweep_again(%{sweep_timer: nil} = state) do
    if Sweep.over?(state.sweep),
      do: state,
      else: %{state | sweep_timer: Process.send_after(self(), :sweep, Limits.sweep_every_ms())}
  end

  defp sweep_again(state), do: state

  # Says it once, at the moment it becomes so.
  defp given_up(report, state, policy) do
    if Policy.exhausted?(policy) and not Policy.exhausted?(state.policy),
      do: Reporter.exhausted(report, state.config.on_exhausted)

    %{state | policy: policy}
  end

  # From the first sign of pressure until it has passed, one measure after the other.
  defp measure(%{measure: :running} = state), do: state
  defp measure(%{watcher: nil} = state), do: state

  defp measure(state) do
    state = cancel(state)
    Slack.start(self(), state.watcher)
    %{state | measure: :running}
  end

  # One that runs sees too little of what is freed from now on; another follows it in time.
  defp measure_in(_ms, %{measure: :running} = state), do: state

  defp measure_in(ms, state),
    do: %{cancel(state) | measure: Process.send_after(self(), :measure, ms)}

  defp cancel(%{measure: timer} = state) do
    _ = if is_reference(timer), do: Process.cancel_timer(timer)
    %{state | measure: nil}
  end

  # The first measure is the one taken at the start.
  defp measured(%{} = measure, %{unexplained_bytes: nil} = state),
    do: %{state | unexplained_bytes: measure.unexplained_bytes, measure: nil}

  defp measured(%{} = measure, state) do
    slack = Slack.usable_bytes(measure, state.unexplained_bytes)
    slack = if state.level == :normal and slack < @slack_matters_bytes, do: 0, else: slack
    Native.watcher_slack(state.watcher, slack)
    policy = Policy.measured(state.policy, measure, slack, Sweep.over?(state.sweep))
    moved = abs(measure.working_set_bytes - (state.measured_at_bytes || 0))
    state = %{state | policy: policy, measured_at_bytes: measure.working_set_bytes, measure: nil}
    again(slack, moved, state)
  end

  defp measured(nil, state), do: again(0, 0, %{state | measure: nil})

  defp again(slack, moved, %{policy: policy, level: level} = state) do
    cond do
      not Promises.settled?(policy.promises) -> measure_in(Limits.measure_after_ms(), state)
      slack == 0 and level == :normal -> state
      # What is free inside is all there is, and growth that uses it up moves nothing.
      below_floor?(state) -> measure_in(@measure_ms.high, state)
      moved < @at_rest_bytes -> measure_in(at_rest_ms(slack), state)
      true -> measure_in(@measure_ms[level], state)
    end
  end

  defp below_floor?(%{watcher: watcher, level: :normal}) do
    case Native.watcher_report(watcher) do
      %{headroom_bytes: headroom, critical_headroom_bytes: floor} when is_integer(headroom) ->
        headroom < floor

      _unknown ->
        false
    end
  end

  defp below_floor?(_pressure), do: false

  # What counts for something has to be measured anew, or does not count any more.
  defp at_rest_ms(0), do: Limits.measure_idle_ms()
  defp at_rest_ms(_slack), do: Limits.measure_at_rest_ms()

  defp watch(%{config: config} = state) do
    with true <- Native.loaded?() || {:error, {:not_loaded, Native.load_error()}},
         {:ok, watcher} <- Native.watcher_start(self(), native_config(config)) do
      Tables.put_watcher(watcher)
      report = Native.watcher_report(watcher)
      Reporter.started(report, config)
      policy = Policy.new(Trim.enabled?(config.trim))
      state = measure(%{state | watcher: watcher, policy: policy, level: Level.get()})

      # The watcher tells what is not normal. After a crash of this process, or of the watcher, the
      # level is what it was until now, so that nothing comes back in between; and all who were
      # told of that must hear that it is over.
      if report.level == :normal, do: over(report, state), else: state
    else
      {:error, {reason, message}} ->
        # The library must not be why the application fails.
        Tables.put_watcher(nil)
        Reporter.problem("no watcher (#{reason}): #{message}")
        Process.send_after(self(), :watch, @retry_ms)
        # Nothing is known, and nobody is kept out for that.
        over(@unknown, %{state | level: Level.get()})
    end
  end

  defp over(_report, %{level: :normal} = state), do: state
  defp over(report, state), do: level(report, state)

  defp native_config(config) do
    [elevated: e_ms, high: h_ms, critical: c_ms] = config.time_to_exhaustion_ms

    %{
      limit_bytes: config.limit,
      root: config.root,
      watermarks: watermarks(config.watermarks),
      tte_ms: {e_ms, h_ms, c_ms},
      min_interval_ms: config.sample_interval_ms[:min],
      max_interval_ms: config.sample_interval_ms[:max]
    }
  end

  defp watermarks(:auto), do: nil
  defp watermarks(elevated: e, high: h, critical: c), do: {e * 1.0, h * 1.0, c * 1.0}

  defp now, do: System.monotonic_time(:millisecond)
end
