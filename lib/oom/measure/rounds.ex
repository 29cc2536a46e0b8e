defmodule OOM.Bonds.Rounds do
  @moduledoc false
  # Looks in the background whom those next in line are bound to (OOM.Bonds), so that the plan does not
  # offer the guard who cannot be killed; and again at those that were found to be bound, because a bond
  # ends. What was bound since is seen at the kill.
  #
  # A round is a throw-away process, and asks one after the other. Where one of them does not answer, the
  # next round begins without it.

  use GenServer

  alias OOM.{Bonds, Stillness, Units, VictimQueue}

  # Between two rounds. One asks about 100 workers at most, which takes about a millisecond.
  @pause_ms %{normal: 5_000, elevated: 1_000, high: 250, critical: 250}
  # The same at most, while memory stands still: whoever is next in line is so as before, and what was
  # bound since is seen at the kill.
  @most_ms 60_000
  # So many of the next victims, as many as one decision takes; and so many of those that are bound.
  @next 64
  @again 256
  # How long a round is waited for, and how many may be left behind, each of them at one worker.
  @wait_ms 1_000
  @most_left 8

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The level has changed; by OOM.Tree.Census, who does not wait."
  @spec pressure(OOM.level()) :: :ok
  def pressure(level) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:pressure, level})
    :ok
  end

  @doc "Memory has moved; by the accountant, who does not wait."
  @spec moved() :: :ok
  def moved do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :moved)
    :ok
  end

  @doc "One round from now on, which is through when this returns; for tests and tools."
  @spec round() :: :ok
  def round do
    _ = run([])
    :ok
  end

  @impl true
  def init(nil),
    do: {:ok, later(%{level: OOM.level(), rounds: %{}, from: [], timer: nil, still: nil})}

  @impl true
  def handle_info({:pressure, level}, %{level: before} = state) do
    state = %{state | level: level}
    {:noreply, if(before == :normal and level != :normal, do: start(state), else: soon(state))}
  end

  def handle_info(:moved, state), do: {:noreply, soon(state)}

  def handle_info(:round, state), do: {:noreply, start(state)}

  def handle_info({:rest, rest}, state), do: {:noreply, %{state | from: rest}}

  def handle_info({:DOWN, ref, :process, _, _}, state),
    do: {:noreply, %{state | rounds: Map.delete(state.rounds, ref)}}

  def handle_info(_other, state), do: {:noreply, state}

  defp start(state) do
    now = System.monotonic_time(:millisecond)
    young? = Enum.any?(state.rounds, fn {_, began} -> now - began < @wait_ms end)

    if young? or map_size(state.rounds) >= @most_left do
      later(state)
    else
      {me, from} = {self(), state.from}
      round = fn -> OOM.Tables.while_there(fn -> send(me, {:rest, run(from)}) end) end
      {_pid, ref} = :erlang.spawn_opt(round, [:monitor, priority: priority(state.level)])
      later(%{state | rounds: Map.put(state.rounds, ref, now)})
    end
  end

  defp priority(:normal), do: :normal
  defp priority(_pressure), do: :high

  defp later(state) do
    least = @pause_ms[state.level]
    still = Stillness.rest(state.still || Stillness.new(least), OOM.snapshot(), least, @most_ms)
    in_ms(still.pause_ms, %{state | still: still})
  end

  # One that is due sooner comes as it would.
  defp soon(state) do
    least = @pause_ms[state.level]
    left = state.timer && Process.read_timer(state.timer)
    if is_integer(left) and left > least, do: in_ms(least, state), else: state
  end

  defp in_ms(pause_ms, state) do
    _ = if state.timer, do: Process.cancel_timer(state.timer)
    %{state | timer: Process.send_after(self(), :round, pause_ms)}
  end

  # Those that are bound are taken in turn: `from` are those that the last round has left.
  defp run(from) do
    {again, rest} = Enum.split(if(from == [], do: Units.bound(), else: from), @again)
    pids = Enum.uniq(VictimQueue.line(@next, @next, %{}) ++ again)
    for pid <- pids, do: Units.bind(pid, Bonds.rank(pid))
    rest
  end
end
