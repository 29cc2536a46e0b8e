defmodule OOM.Tree.Census do
  @moduledoc false
  # When to look for what came below the supervisors (OOM.Tree.Walk). Where many come and go, it is
  # looked often, so that little is new when memory becomes short; where nobody comes, ten times more
  # rarely. Never more than a share of one CPU.
  #
  # Under pressure it hurries while memory moves. Where it stands still there is next to nothing to find,
  # whatever the level: all that has come takes memory. Then it looks once a minute.

  use GenServer

  alias OOM.Bonds.Rounds
  alias OOM.Tree.Walk

  @least_ms 1_000
  @most_ms 10_000
  @rest_ms 60_000
  # The next walk begins no sooner than so many times the length of the last one after it.
  @share %{normal: 19, elevated: 4, high: 4, critical: 4}
  # The same where it found nobody and memory stands still: 100,000 processes take 150 ms.
  @rest_share 249
  # Under pressure.
  @hurry_ms 100
  # A walk that found more new ones than this part of all should have been sooner.
  @part 50

  # Its one large thing is a list that is replaced each time.
  @spawn [priority: :high, fullsweep_after: 0]

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: @spawn)

  @doc "The level has changed."
  @spec pressure(OOM.level()) :: :ok
  def pressure(level) do
    Rounds.pressure(level)
    tell({:pressure, level})
  end

  @doc "Memory has moved; by the accountant, who does not wait."
  @spec moved() :: :ok
  def moved, do: tell(:moved)

  @doc "A supervisor has started."
  @spec changed() :: :ok
  def changed, do: tell(:changed)

  @doc "Walks now and returns when it is through; for tests and tools."
  @spec walk() :: :ok
  def walk, do: GenServer.call(__MODULE__, :walk, :infinity)

  @impl true
  def init(nil) do
    state = %{
      # Whoever knows better tells only of changes.
      level: OOM.level(),
      walk: nil,
      began_ms: 0,
      pause_ms: @least_ms,
      # when the last walk was through, and how long it took
      ended_ms: 0,
      took_ms: 0,
      # memory has moved since the walk under way began; and whether the last found nobody
      moved?: false,
      quiet?: false,
      # whom the next walk passes by
      settled: [],
      # who waits for the walk under way, and for the one after it
      callers: [],
      next: [],
      timer: nil
    }

    {:ok, later(if(state.level == :normal, do: @least_ms, else: @hurry_ms), state)}
  end

  @impl true
  def handle_call(:walk, from, %{walk: nil} = state),
    do: {:noreply, start(%{state | callers: [from | state.callers]})}

  # The walk under way may have passed by what the caller means: another one follows it.
  def handle_call(:walk, from, state), do: {:noreply, %{state | next: [from | state.next]}}

  @impl true
  def handle_info({:pressure, level}, state) do
    hurry? = state.level == :normal and level != :normal and state.walk == nil
    state = %{state | level: level}
    {:noreply, if(hurry?, do: start(state), else: hurry(state))}
  end

  def handle_info(:moved, state), do: {:noreply, hurry(state)}

  def handle_info(:changed, %{walk: nil, pause_ms: pause} = state) when pause > @least_ms,
    do: {:noreply, later(@least_ms, %{state | pause_ms: @least_ms})}

  def handle_info(:walk, %{walk: nil} = state), do: {:noreply, start(state)}

  def handle_info({:walked, result}, state),
    do:
      {:noreply,
       %{
         state
         | pause_ms: pause(result, state),
           settled: result.settled,
           quiet?: result.found == 0
       }}

  def handle_info({:DOWN, ref, :process, _, _}, %{walk: ref} = state) do
    for from <- state.callers, do: GenServer.reply(from, :ok)
    now = System.monotonic_time(:millisecond)
    took = now - state.began_ms
    state = %{state | walk: nil, callers: state.next, next: [], ended_ms: now, took_ms: took}
    pause = if state.moved?, do: min(state.pause_ms, soon_ms(state)), else: state.pause_ms
    rest = if state.quiet? and not state.moved?, do: min(took * @rest_share, @rest_ms), else: 0
    state = %{state | pause_ms: max(pause, rest)}

    if state.callers == [],
      do: {:noreply, later(max(state.pause_ms, share_ms(state)), state)},
      else: {:noreply, start(state)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp pause(%{found: found}, %{level: level}) when found > 0 and level != :normal,
    do: @hurry_ms

  defp pause(%{all: all, found: found}, _state) when found * @part > all, do: @least_ms
  defp pause(_result, state), do: min(state.pause_ms * 2, @rest_ms)

  # The next walk begins as soon as it may.
  defp hurry(%{walk: nil} = state) do
    soon = soon_ms(state)
    wait = max(soon, share_ms(state)) - (System.monotonic_time(:millisecond) - state.ended_ms)

    if state.pause_ms > soon,
      do: later(max(wait, 0), %{state | pause_ms: soon}),
      else: state
  end

  defp hurry(state), do: %{state | moved?: true}

  defp soon_ms(%{level: :normal}), do: @most_ms
  defp soon_ms(_pressure), do: @hurry_ms

  defp share_ms(state), do: state.took_ms * @share[state.level]

  defp start(state) do
    census = self()
    settled = state.settled
    walk = fn -> send(census, {:walked, Walk.run(settled)}) end
    {_pid, ref} = :erlang.spawn_opt(walk, [:monitor, priority: priority(state.level)])
    %{state | walk: ref, moved?: false, began_ms: System.monotonic_time(:millisecond)}
  end

  defp priority(:normal), do: :normal
  defp priority(_pressure), do: :high

  defp later(delay_ms, state) do
    _ = if state.timer, do: Process.cancel_timer(state.timer)
    %{state | timer: Process.send_after(self(), :walk, delay_ms)}
  end

  defp tell(message) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, message)
    :ok
  end
end
