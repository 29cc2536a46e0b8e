defmodule OOM.Guard do
  @moduledoc false
  # Owns the watcher, publishes the level, and reacts. The guard runs at top priority with its heap allocated
  # up front, reads a plan that other processes keep, sends signals and spawns, and asks no process anything.
  # Slow work (logs, subscribers, callbacks) is left to other processes.

  use GenServer

  alias OOM.{
    Accountant,
    Asker,
    Charges,
    Level,
    Native,
    Notifier,
    Plan,
    Policy,
    Promises,
    Reporter,
    Shed,
    Steps,
    Sweep,
    Tables,
    Throttle,
    Trim
  }

  alias OOM.Guard.{Measures, Reaction, Throttling, Watch}

  @retry_ms 5_000
  # Room for a batch, its figures and the reports, so that the reaction does not collect garbage.
  @min_heap_words 50_000
  # After so long without a tick, a tick means that memory begins to move, and other processes pause long.
  @begins_ms 1_500
  # The report without a watcher.
  @unknown %{level: :normal, source: nil, headroom_bytes: nil, growth_bytes_per_s: nil}

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config) do
    # Elixir's type of the options has no priority :max.
    :gen_server.start_link({:local, __MODULE__}, __MODULE__, config,
      spawn_opt: [priority: :max, min_heap_size: @min_heap_words, message_queue_data: :off_heap]
    )
  end

  @doc """
  Tells the guard that new figures are in, where the watcher may see no reason to tick. Sends a message.
  """
  @spec look() :: :ok
  def look, do: tell(:look)

  @doc """
  Tells the guard the same, from the throttle, with the growth while all workers that may grow stood still.
  """
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
      throttling: %Throttling{},
      ticked_ms: nil,
      trimmed_ms: nil,
      sweep: Sweep.new(),
      sweep_timer: nil,
      level: :normal,
      measures: %Measures{}
    }

    # The first sample is taken before anything of the user's starts.
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

  # The watcher's thread is gone, so nothing is watched. A new watcher starts at once.
  def handle_info({:oom_watch, :down, message}, state) do
    Reporter.problem("the watcher stopped: #{message}")
    {:noreply, watch(%{state | watcher: nil})}
  end

  def handle_info(
        {:DOWN, ref, :process, _pid, reason},
        %{throttling: %{throttle: %{ref: ref}} = throttling} = state
      ) do
    foreign? = reason == {:shutdown, :foreign}
    throttling = Throttling.ended(throttling, foreign?, now())
    {:noreply, %{state | policy: Policy.foreign(state.policy, foreign?), throttling: throttling}}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    bytes = Promises.leaving_bytes(state.policy.promises, pid)
    Sweep.freed(state.sweep, bytes)
    {last?, policy} = Policy.gone(state.policy, pid, now())
    if last? and policy.trim?, do: Trim.start()
    {:noreply, Reaction.sweep(%{state | policy: policy})}
  end

  # The victim has its order, and must be able to follow the order.
  def handle_info({:told, pid}, state) do
    Throttle.release(state.throttling.throttle, [pid])
    {:noreply, state}
  end

  # The kill would have ended a worker of a higher rank too, so the worker lives.
  def handle_info({:spared, pid, _rank}, state),
    do: {:noreply, %{state | policy: Policy.taken_back(state.policy, pid)}}

  # The throttle has read all suspended workers, and tells the growth meanwhile.
  def handle_info({:look, pid, standing}, %{throttling: %{throttle: %{pid: pid}}} = state),
    do: handle_info(:look, %{state | throttling: Throttling.told(state.throttling, standing)})

  # New figures may show a step that does not fit; while growth stands still no tick would come.
  def handle_info(:look, %{watcher: watcher} = state) when watcher != nil do
    case Native.watcher_report(watcher) do
      %{headroom_bytes: headroom} = report when is_integer(headroom) ->
        {:noreply, tick(report, step(state))}

      _unknown ->
        {:noreply, state}
    end
  end

  def handle_info({:slack, measure}, state), do: {:noreply, measured(measure, state)}

  def handle_info(:measure, state),
    do: {:noreply, measure(%{state | measures: Measures.due(state.measures)})}

  def handle_info(:sweep, state), do: {:noreply, Reaction.sweep(%{state | sweep_timer: nil})}
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
        # On the way up, before any worker has to die.
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

  # Ticks come below critical, too, when growth would reach the floor soon.
  defp tick(%{headroom_bytes: headroom} = report, %{level: level} = state)
       when is_integer(headroom) do
    standing = Throttling.standing_bytes_per_s(state.throttling)
    report = Map.put(report, :standing_bytes_per_s, standing)
    state = %{state | policy: Policy.seen(state.policy, report, now())}

    if level == :critical or Policy.need_bytes(state.policy, report, now()) > 0,
      do: Reaction.run(report, throttle(report, state)),
      else: throttle(report, %{state | policy: Policy.unneeded(state.policy)})
  end

  defp tick(_no_limit, state), do: state

  defp step(state) do
    policy = Policy.throttled(state.policy, Throttling.at_work?(state.throttling))
    policy = Policy.charged(policy, Charges.last_ms())
    policy = Policy.largest(policy, Plan.largest_bytes())
    %{state | policy: Policy.steps(policy, Steps.largest())}
  end

  defp throttle(report, %{throttling: %{throttle: nil}, config: %{kill: true}} = state) do
    # Steps that do not fit together do not wait for the end of foreign growth.
    due? =
      Throttling.rested?(state.throttling, now()) or
        (state.policy.foreign? and Policy.crowded?(state.policy, report))

    if due? and Policy.throttle?(state.policy, report) do
      state =
        if Throttling.episode_over?(state.throttling, now()), do: next_episode(state), else: state

      trim? = state.policy.trim?
      %{state | throttling: Throttling.start(state.throttling, state.watcher, trim?)}
    else
      state
    end
  end

  defp throttle(_report, state), do: state

  defp next_episode(state) do
    Level.next_episode()
    %{state | policy: Policy.foreign(state.policy, false)}
  end

  defp measure(state), do: %{state | measures: Measures.start(state.measures, state.watcher)}

  defp measured(measure, state) do
    case Measures.taken(state.measures, measure, state.level) do
      {:first, measures} ->
        %{state | measures: measures}

      {nil, measures} ->
        measure_again({0, 0}, %{state | measures: measures})

      {{slack, _moved} = seen, measures} ->
        Native.watcher_slack(state.watcher, slack)
        policy = Policy.measured(state.policy, measure, slack, Sweep.over?(state.sweep))
        measure_again(seen, %{state | measures: measures, policy: policy})
    end
  end

  defp measure_again({slack, _moved} = seen, %{level: level} = state) do
    settled? = Promises.settled?(state.policy.promises)
    below? = level == :normal and slack > 0 and below_floor?(state.watcher)

    case Measures.pause_ms(seen, level, settled?, below?) do
      nil -> state
      pause_ms -> %{state | measures: Measures.start_in(state.measures, pause_ms)}
    end
  end

  defp below_floor?(watcher) do
    case Native.watcher_report(watcher) do
      %{headroom_bytes: headroom, critical_headroom_bytes: floor} when is_integer(headroom) ->
        headroom < floor

      _unknown ->
        false
    end
  end

  defp watch(%{config: config} = state) do
    case Watch.start(config) do
      {:ok, watcher, report} ->
        Tables.put_watcher(watcher)
        Reporter.started(report, config)
        policy = Policy.new(Trim.enabled?(config.trim))
        state = measure(%{state | watcher: watcher, policy: policy, level: Level.get()})

        # The watcher reports only levels above normal. After a crash of the guard or the watcher the old
        # level stays, so that no held worker comes back in between. All subscribers of that level must hear
        # of its end.
        if report.level == :normal, do: over(report, state), else: state

      {:error, {reason, message}} ->
        # The library must not be why the application fails.
        Tables.put_watcher(nil)
        Reporter.problem("no watcher (#{reason}): #{message}")
        Process.send_after(self(), :watch, @retry_ms)
        # Nothing is known, and no work is turned away for that.
        over(@unknown, %{state | level: Level.get()})
    end
  end

  defp over(_report, %{level: :normal} = state), do: state
  defp over(report, state), do: level(report, state)

  defp now, do: System.monotonic_time(:millisecond)
end
