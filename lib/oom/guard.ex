defmodule OOM.Guard do
  @moduledoc false
  # Owns the watcher, publishes the level, and reacts. It runs at top priority with its heap
  # allocated up front, reads the plan that others keep, sends signals and spawns, and asks no
  # process anything. What is slow (logs, subscribers, callbacks) others do.

  use GenServer

  alias OOM.{Accountant, Kill, Level, Native, Notifier, Plan, Reaction, Reporter, Tables}
  alias OOM.{Trim, Victims}

  # More victims than this in one batch would be chosen on figures that the first of them makes
  # obsolete; the next tick is a millisecond away.
  @batch 64
  @retry_ms 5_000
  # Of the cached segments that a quiet, elevated VM still holds.
  @min_heap_words 50_000

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config) do
    GenServer.start_link(__MODULE__, config,
      name: __MODULE__,
      spawn_opt: [priority: :max, min_heap_size: @min_heap_words, message_queue_data: :off_heap]
    )
  end

  @impl true
  def init(config) do
    Level.put(:normal)
    state = %{config: config, watcher: nil, reaction: Reaction.new(false), level: :normal}
    {:ok, state, {:continue, :watch}}
  end

  @impl true
  def handle_continue(:watch, state), do: {:noreply, watch(state)}

  @impl true
  def handle_info({:oom_watch, :tick, report}, state) do
    state = react(report, state)
    Native.watcher_ack(state.watcher)
    {:noreply, state}
  end

  def handle_info({:oom_watch, :level, report}, state), do: {:noreply, level(report, state)}

  def handle_info({:oom_watch, :problem, message}, state) do
    Reporter.problem(message)
    {:noreply, state}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    {last?, reaction} = Reaction.gone(state.reaction, pid, now())
    if last? and reaction.trim?, do: Trim.start()
    {:noreply, %{state | reaction: reaction}}
  end

  def handle_info(:watch, state), do: {:noreply, watch(state)}
  def handle_info(_other, state), do: {:noreply, state}

  defp level(report, state) do
    from = state.level
    Level.put(report.level)
    Notifier.level(from, report)
    Accountant.pressure(report.level, report.growth_bytes_per_s)
    state = %{state | level: report.level}

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

  defp react(report, state) do
    case Reaction.decide(state.reaction, report, now()) do
      {:wait, reaction} ->
        given_up(report, state, reaction)

      {:trim, reaction} ->
        Trim.start()
        %{state | reaction: reaction}

      {{:trim_and_kill, need}, reaction} ->
        Trim.start()
        kill(need, report, %{state | reaction: reaction})

      {{:kill, need}, reaction} ->
        kill(need, report, %{state | reaction: reaction})
    end
  end

  defp kill(need, report, %{reaction: reaction, config: config} = state) do
    now = now()
    victims = pick(need, reaction, config)

    for victim <- victims do
      Process.monitor(victim.pid)
      Victims.mark(victim.pid, now, victim.bytes)
      Kill.start(victim.pid, config.grace_ms)
    end

    if victims == [] do
      given_up(report, state, Reaction.nobody(reaction, report, now))
    else
      Reporter.killed(victims, need, report)
      %{state | reaction: Reaction.killed(reaction, victims, report, now)}
    end
  end

  defp pick(_need, _reaction, %{kill: false}), do: []

  defp pick(need, reaction, config) do
    Plan.pick(need, @batch, config.min_victim_bytes, &is_map_key(reaction.leaving, &1))
  end

  # Says it once, at the moment it becomes so.
  defp given_up(report, state, reaction) do
    if Reaction.exhausted?(reaction) and not Reaction.exhausted?(state.reaction),
      do: Reporter.exhausted(report, state.config.on_exhausted)

    %{state | reaction: reaction}
  end

  defp watch(%{config: config} = state) do
    with true <- Native.loaded?() || {:error, {:not_loaded, Native.load_error()}},
         {:ok, watcher} <- Native.watcher_start(self(), native_config(config)) do
      Tables.put_watcher(watcher)
      # The watcher reports changes; where it starts is the first one.
      report = Native.watcher_report(watcher)
      Reporter.started(report, config)
      reaction = Reaction.new(Trim.enabled?(config.trim))
      %{state | watcher: watcher, reaction: reaction}
    else
      {:error, {reason, message}} ->
        # The library must not be why the application fails.
        Tables.put_watcher(nil)
        Reporter.problem("no watcher (#{reason}): #{message}")
        Process.send_after(self(), :watch, @retry_ms)
        state
    end
  end

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
