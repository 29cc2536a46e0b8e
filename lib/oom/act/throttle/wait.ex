defmodule OOM.Throttle.Wait do
  @moduledoc false
  # The throttle's receive loop. While the throttle waits, workers come to stand, the guard asks for a
  # release, and a worker that has stood for long enough is let go.

  alias OOM.Limits.Turn
  alias OOM.{Lineup, Stretches, Workers}
  alias OOM.Throttle.{Narrow, Sample, State, Suspended}

  @typedoc "What ends the wait before its time: all workers stand, or a look is through."
  @type what :: :stood | {:looked, reference()} | nil

  @doc "Waits at most until this time; `:ok` where the guard has ended, and the throttle ends with the guard."
  @spec until(State.t(), integer(), what()) :: {:ok, State.t()} | :ok
  def until(state, until_ms, :stood),
    do: wait(state, until_ms, {:stood, length(State.busy(state))})

  def until(state, until_ms, what), do: wait(state, until_ms, what)

  defp wait(state, _until_ms, {:stood, 0}), do: {:ok, state}

  defp wait(%{guard: guard} = state, until_ms, what) do
    receive do
      # The documentation says `exited`; OTP 25 sends `badarg`.
      {{Suspended, pid}, how} when how in [:exited, :badarg] ->
        busy? = match?(%{^pid => {false, _}}, state.still)
        state = %{State.resume(state, [pid]) | line: Lineup.ended(state.line, pid)}
        wait(state, until_ms, if(busy?, do: one_less(what), else: what))

      {{Suspended, pid}, _how} ->
        {still, news?} = Suspended.stands(state.still, pid)
        wait(%{state | still: still}, until_ms, if(news?, do: one_less(what), else: what))

      {:looked, ref} when what == {:looked, ref} ->
        {:ok, state}

      {:looked, _earlier} ->
        wait(state, until_ms, what)

      {:release, pids} ->
        wait(release(state, pids), until_ms, what)

      {:DOWN, ^guard, _, _, _} ->
        :ok
    after
      max(min(until_ms, min(state.due_ms, state.watch_ms)) - now(), 0) ->
        now = now()

        cond do
          now >= state.watch_ms -> state |> watch(now) |> wait(until_ms, what)
          now >= until_ms -> {:ok, state}
          true -> state |> let_go(now) |> wait(until_ms, what)
        end
    end
  end

  defp one_less({:stood, count}), do: {:stood, count - 1}
  defp one_less(what), do: what

  defp release(state, pids),
    do: State.resume(%{state | line: Lineup.released(state.line, pids)}, pids)

  # These workers have stood for the longest stretch of a worker that is not shown to grow. They run until the next
  # stand, or until memory has grown: let go together, fifteen workers took 40 MB before the next stand.
  defp let_go(state, now_ms) do
    pids = Stretches.due(state.since, State.shown(state), now_ms)

    loose =
      for pid <- pids, is_map_key(state.still, pid), not Lineup.waits?(state.line, pid), do: pid

    now = Sample.take(state.watcher)
    state = state |> Narrow.run(loose, now) |> State.resume(pids)
    # Workers let go before count from the same sample.
    from = if state.loose == [], do: now, else: state.loose_from
    state = %{state | loose: loose ++ state.loose, loose_from: from, loose?: true}
    State.due(%{state | since: Map.drop(state.since, pids), watch_ms: watch_ms(state, now_ms)})
  end

  defp watch_ms(%{loose: []}, _now_ms), do: :infinity
  defp watch_ms(_state, now_ms), do: now_ms + Turn.shortest_ms()

  # Memory of victims that comes back hides growth, so growth counts from the lowest use since.
  defp watch(state, now_ms) do
    now = Sample.take(state.watcher)
    from = if Sample.moved(state.loose_from, now) < 0, do: now, else: state.loose_from

    if Sample.moved(from, now) > Turn.alert_bytes(),
      do: recall(state),
      else: %{state | loose_from: from, watch_ms: watch_ms(state, now_ms)}
  end

  # Only workers that did not wait for a message at their last look.
  defp recall(state) do
    pids = for pid <- state.loose, Workers.rank(pid) not in [nil, :protected], do: pid
    State.suspend(%{state | loose: [], watch_ms: :infinity}, pids)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
