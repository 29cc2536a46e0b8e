defmodule OOM.Bonds.Rounds do
  @moduledoc false
  # Looks in the background for the bonds (OOM.Bonds) of the next victims, so that the plan does not offer
  # the guard a worker that cannot be killed. A round also looks again at workers found bound before, because
  # a bond ends. The kill sees the bonds made since.
  #
  # A round is a throw-away process, and asks one worker after another. Where a worker does not answer, the
  # next round begins without waiting for the last.

  use GenServer

  alias OOM.{Bonds, Snapshot, Stillness, Units, VictimQueue}

  # The pause between two rounds. A round of 100 workers takes about a millisecond.
  @pause_ms %{normal: 5_000, elevated: 1_000, high: 250, critical: 250}
  # The longest pause, while memory stands still: the next victims are the same as before, and the kill
  # sees the bonds made since.
  @most_ms 60_000
  # A round asks so many of the next victims, as many as one decision takes, and so many bound workers.
  @next 64
  @again 256
  # How long the next round waits for the last, and how many rounds may be left behind, each at one worker.
  @wait_ms 1_000
  @most_left 8

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Tells the rounds a new level. Sent by OOM.Tree.Census, without waiting."
  @spec pressure(OOM.level()) :: :ok
  def pressure(level) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:pressure, level})
    :ok
  end

  @doc "Tells the rounds that memory has moved. Sent by the accountant, without waiting."
  @spec moved() :: :ok
  def moved do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :moved)
    :ok
  end

  @doc "Runs a whole round in the caller; for tests and tools."
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
    still = Stillness.rest(state.still || Stillness.new(least), Snapshot.now(), least, @most_ms)
    in_ms(still.pause_ms, %{state | still: still})
  end

  # A round due sooner keeps its time.
  defp soon(state) do
    least = @pause_ms[state.level]
    left = state.timer && Process.read_timer(state.timer)
    if is_integer(left) and left > least, do: in_ms(least, state), else: state
  end

  defp in_ms(pause_ms, state) do
    _ = if state.timer, do: Process.cancel_timer(state.timer)
    %{state | timer: Process.send_after(self(), :round, pause_ms)}
  end

  # Bound workers are asked in turn: `from` are the workers left by the last round.
  defp run(from) do
    {again, rest} = Enum.split(if(from == [], do: Units.bound(), else: from), @again)
    pids = Enum.uniq(VictimQueue.line(@next, @next, %{}) ++ again)
    for pid <- pids, do: Units.bind(pid, Bonds.rank(pid))
    rest
  end
end
