defmodule OOM.Throttle.Wait do
  @moduledoc false
  # The throttle's receive loop. While the throttle waits, workers come to stand, the guard asks for a
  # release, and a worker that has stood for long enough is let go.

  alias OOM.{Lineup, Stretches}
  alias OOM.Throttle.{State, Suspended}

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
      max(min(until_ms, state.due_ms) - now(), 0) ->
        if now() >= until_ms,
          do: {:ok, state},
          else: wait(let_go(state), until_ms, what)
    end
  end

  defp one_less({:stood, count}), do: {:stood, count - 1}
  defp one_less(what), do: what

  defp release(state, pids),
    do: State.resume(%{state | line: Lineup.released(state.line, pids)}, pids)

  # These workers have stood for the longest stretch of a worker that is not shown to grow.
  defp let_go(state) do
    pids = Stretches.due(state.since, State.shown(state), now())
    state = State.resume(state, pids)
    State.due(%{state | since: Map.drop(state.since, pids), loose?: true})
  end

  defp now, do: System.monotonic_time(:millisecond)
end
