defmodule OOM.Guard do
  @moduledoc false
  # Owns the watcher, publishes the level, and reacts. It runs at top priority with its heap
  # allocated up front, reads the plan that others keep, sends signals and spawns, and asks no
  # process anything. What is slow (logs, subscribers, callbacks) others do.

  use GenServer

  alias OOM.{
    Accountant,
    Asker,
    Brake,
    Kill,
    Level,
    Native,
    Notifier,
    Plan,
    Reaction,
    Reporter,
    Tables
  }

  alias OOM.{Shed, Slack, Steps, Trim}

  # More victims than this in one batch would be chosen on figures that the first of them makes
  # obsolete; the next tick is a millisecond away.
  @batch 64
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
  # The report of no watcher.
  @unknown %{level: :normal, source: nil, growth_bytes_per_s: nil}

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config) do
    # Elixir's type of the options has no priority :max.
    :gen_server.start_link({:local, __MODULE__}, __MODULE__, config,
      spawn_opt: [priority: :max, min_heap_size: @min_heap_words, message_queue_data: :off_heap]
    )
  end

  @doc "New figures are in, and the watcher may see no reason to tick yet. Sent, not asked."
  @spec look() :: :ok
  def look do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  @impl true
  def init(config) do
    state = %{
      config: config,
      watcher: nil,
      reaction: Reaction.new(false),
      brake: nil,
      trimmed_ms: nil,
      level: :normal,
      # what resident memory held besides the VM's blocks at the start, see OOM.Slack
      unexplained_bytes: nil,
      measuring?: false
    }

    # Before anything of the user's starts there is a first sample.
    {:ok, watch(state)}
  end

  @impl true
  def handle_info({:oom_watch, :tick, report}, state) do
    state = tick(report, step(state))
    Native.watcher_ack(state.watcher)
    {:noreply, state}
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

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    {last?, reaction} = Reaction.gone(state.reaction, pid, now())
    if last? and reaction.trim?, do: Trim.start()
    {:noreply, %{state | reaction: reaction}}
  end

  # What may be taken in one step grows without a sign in the working set.
  def handle_info(:look, %{watcher: watcher} = state) when watcher != nil do
    state = step(state)

    case Native.watcher_report(watcher) do
      %{headroom_bytes: headroom} = report when is_integer(headroom) ->
        if Reaction.crowded?(state.reaction, report),
          do: {:noreply, react(report, state)},
          else: {:noreply, state}

      _unknown ->
        {:noreply, state}
    end
  end

  def handle_info({:slack, measure}, state), do: {:noreply, measured(measure, state)}
  def handle_info(:measure, state), do: {:noreply, measure(%{state | measuring?: false})}
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
        react(report, state)

      Level.number(report.level) > Level.number(from) ->
        # On the way up, before anyone has to die.
        if state.reaction.trim?, do: Trim.start()
        state

      true ->
        %{state | reaction: Reaction.relieved(state.reaction)}
    end
  end

  # Ticks come before critical, too, when it will be very soon.
  defp tick(%{level: :critical} = report, state), do: react(report, state)

  defp tick(report, state) do
    if Reaction.crowded?(state.reaction, report),
      do: react(report, state),
      else: brake(report, state)
  end

  defp step(state),
    do: %{state | reaction: Reaction.step(state.reaction, Steps.bytes())}

  defp brake(report, %{config: %{kill: true}} = state) do
    if Reaction.brake?(state.reaction, report),
      do: %{state | brake: Brake.on(state.brake, limits(0, report, state))},
      else: state
  end

  defp brake(_report, state), do: state

  defp react(report, state) do
    state = report |> brake(state) |> trim_again()

    case Reaction.decide(state.reaction, report, now()) do
      {:wait, reaction} ->
        given_up(report, state, reaction)

      {:trim, reaction} ->
        trim(%{state | reaction: reaction})

      {{:trim_and_kill, need}, reaction} ->
        kill(need, report, trim(%{state | reaction: reaction}))

      {{:kill, need}, reaction} ->
        kill(need, report, %{state | reaction: reaction})
    end
  end

  # Besides the trims that are waited for.
  defp trim_again(%{trimmed_ms: last, reaction: reaction} = state) do
    due? = last != nil and now() - last >= @trim_again_ms
    if due? and not Reaction.exhausted?(reaction), do: trim(state), else: state
  end

  defp trim(state) do
    Trim.start()
    %{state | trimmed_ms: now()}
  end

  defp kill(_need, report, %{config: %{kill: false}} = state),
    do: given_up(report, state, Reaction.nobody(state.reaction, report, now()))

  defp kill(need, report, %{reaction: reaction, config: config} = state) do
    now = now()
    limits = limits(need, report, state)
    {picked, late?} = Plan.pick(limits)
    worth? = picked != [] and Plan.worth?(Reaction.worth_bytes(reaction, report), limits)
    victims = if worth?, do: picked, else: []
    reaction = Reaction.late(reaction, late?, now)

    for victim <- victims do
      Process.monitor(victim.pid)
      Kill.begin(victim.pid, victim.supervisor, victim.bytes, now, config.grace_ms)
    end

    if victims == [] do
      given_up(report, state, Reaction.nobody(reaction, report, now))
    else
      Brake.release(state.brake, Enum.map(victims, & &1.pid))
      Reporter.killed(victims, need, report)
      %{state | reaction: Reaction.killed(reaction, victims, report, now)}
    end
  end

  defp limits(need, report, %{reaction: reaction, config: config}) do
    now = now()

    %{
      need_bytes: need,
      count: @batch,
      min_bytes: config.min_victim_bytes,
      fresh_ms: Reaction.fresh_ms(report),
      unknown: Reaction.unknown(reaction, report, now),
      busy: Reaction.busy(report),
      ceiling: Reaction.ceiling(reaction, now),
      now_ms: now,
      growth_bytes_per_ms: div(max(report.growth_bytes_per_s || 0, 0), 1_000)
    }
  end

  # Says it once, at the moment it becomes so.
  defp given_up(report, state, reaction) do
    if Reaction.exhausted?(reaction) and not Reaction.exhausted?(state.reaction),
      do: Reporter.exhausted(report, state.config.on_exhausted)

    %{state | reaction: reaction}
  end

  # From the first sign of pressure until it has passed, one measure after the other.
  defp measure(%{measuring?: false, watcher: watcher} = state) when watcher != nil do
    Slack.start(self(), watcher)
    %{state | measuring?: true}
  end

  defp measure(state), do: state

  # The first measure is the one taken at the start.
  defp measured(%{} = measure, %{unexplained_bytes: nil} = state),
    do: %{state | unexplained_bytes: measure.unexplained_bytes, measuring?: false}

  defp measured(%{} = measure, state) do
    slack = Slack.usable_bytes(measure, state.unexplained_bytes)
    slack = if state.level == :normal and slack < @slack_matters_bytes, do: 0, else: slack
    Native.watcher_slack(state.watcher, slack)
    again(slack, %{state | reaction: Reaction.measured(state.reaction, measure, slack)})
  end

  defp measured(nil, state), do: again(0, state)

  defp again(0, %{level: :normal} = state), do: %{state | measuring?: false}

  defp again(_slack, state) do
    Process.send_after(self(), :measure, @measure_ms[state.level])
    state
  end

  defp watch(%{config: config} = state) do
    with true <- Native.loaded?() || {:error, {:not_loaded, Native.load_error()}},
         {:ok, watcher} <- Native.watcher_start(self(), native_config(config)) do
      Tables.put_watcher(watcher)
      report = Native.watcher_report(watcher)
      Reporter.started(report, config)
      reaction = Reaction.new(Trim.enabled?(config.trim), soon_ms(config))
      state = measure(%{state | watcher: watcher, reaction: reaction, level: Level.get()})

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

  # As the watcher has it, which ticks from then on.
  defp soon_ms(config), do: 3 * config.time_to_exhaustion_ms[:critical]

  defp watermarks(:auto), do: nil
  defp watermarks(elevated: e, high: h, critical: c), do: {e * 1.0, h * 1.0, c * 1.0}

  defp now, do: System.monotonic_time(:millisecond)
end
