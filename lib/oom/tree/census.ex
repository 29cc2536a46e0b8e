defmodule OOM.Tree.Census do
  @moduledoc false
  # Decides when to walk for new processes below the supervisors (OOM.Tree.Walk): often where many come and
  # go, so that few are new when memory becomes short; at least ten times less often where none come. Walks
  # never take more than a share of one CPU.
  #
  # Under pressure walks come faster while memory moves. While memory stands still there is next to nothing
  # to find, at any level, because new processes take memory. Then a walk comes once a minute.

  use GenServer

  alias OOM.Bonds.Rounds
  alias OOM.Limits
  alias OOM.Tree.{Settled, Walk}

  @least_ms 1_000
  @most_ms 10_000
  @rest_ms 60_000
  # The pause after a walk is at least so many times the length of the walk.
  @share %{normal: 19, elevated: 4, high: 4, critical: 4}
  # The same after a walk that found no worker, while memory stands still: 100,000 processes take 150 ms.
  @rest_share 249
  # The pause under pressure.
  @hurry_ms Limits.next_walk_ms()
  # The least pause before a walk that the guard asks for.
  @search_ms 10
  # The last walk was just now: what the next walk finds has appeared since.
  @recent_ms 1_000
  # A walk that finds more new workers than this part of all processes came too late.
  @part 50

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "Tells the census and the rounds that the level has changed."
  @spec pressure(OOM.level()) :: :ok
  def pressure(level) do
    Rounds.pressure(level)
    tell({:pressure, level})
  end

  @doc "Tells the census that memory has moved. Called by the accountant, which does not wait."
  @spec moved() :: :ok
  def moved, do: tell(:moved)

  @doc "Tells the census that a supervisor has started."
  @spec changed() :: :ok
  def changed, do: tell(:changed)

  @doc "Tells the census that processes outside have become workers: the next walk looks at all processes."
  @spec anew() :: :ok
  def anew, do: tell(:anew)

  @doc "Tells the census that memory is needed and no known worker explains it. Called by the guard."
  @spec search() :: :ok
  def search, do: tell(:search)

  @doc "Walks now and returns after the walk; for tests and tools."
  @spec walk() :: :ok
  def walk, do: GenServer.call(__MODULE__, :walk, :infinity)

  @impl true
  def init(nil) do
    state = %{
      # Messages tell only of later changes.
      level: OOM.level(),
      walk: nil,
      began_ms: 0,
      pause_ms: @least_ms,
      # the end and the length of the last walk
      ended_ms: 0,
      took_ms: 0,
      # whether memory has moved since the current walk began, and whether the last walk found no worker
      moved?: false,
      quiet?: false,
      # the processes the next walk skips, and whether a walk has settled any
      settled: Settled.new(),
      walked?: false,
      # whether the current walk began before the processes to look at changed
      anew?: false,
      # callers waiting for the current walk, and for the walk after
      callers: [],
      next: [],
      timer: nil
    }

    {:ok, later(if(state.level == :normal, do: @least_ms, else: @hurry_ms), state)}
  end

  @impl true
  def handle_call(:walk, from, %{walk: nil} = state),
    do: {:noreply, start(%{state | callers: [from | state.callers]})}

  # The current walk may have missed the process the caller means, so another walk follows.
  def handle_call(:walk, from, state), do: {:noreply, %{state | next: [from | state.next]}}

  @impl true
  def handle_info({:pressure, level}, state) do
    hurry? = state.level == :normal and level != :normal and state.walk == nil
    state = %{state | level: level}
    {:noreply, if(hurry?, do: start(state), else: hurry(state))}
  end

  def handle_info(:anew, state) do
    state = %{state | anew?: state.walk != nil}
    {:noreply, if(state.walk == nil, do: start(fresh(state)), else: state)}
  end

  def handle_info(:moved, state), do: {:noreply, hurry(state)}

  # A search takes no more than half of one CPU.
  def handle_info(:search, %{walk: nil} = state) do
    now = System.monotonic_time(:millisecond)

    if now - state.ended_ms >= max(state.took_ms, @search_ms),
      do: {:noreply, start(state)},
      else: {:noreply, state}
  end

  def handle_info(:changed, %{walk: nil, pause_ms: pause} = state) when pause > @least_ms,
    do: {:noreply, later(@least_ms, %{state | pause_ms: @least_ms})}

  def handle_info(:walk, %{walk: nil} = state), do: {:noreply, start(state)}

  def handle_info({:walked, result}, state) do
    state = %{state | pause_ms: pause(result, state), walked?: true, quiet?: result.found == 0}
    {:noreply, if(state.anew?, do: fresh(state), else: state)}
  end

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

  defp fresh(state), do: %{state | settled: Settled.new(), walked?: false, anew?: false}

  defp pause(%{found: found}, %{level: level}) when found > 0 and level != :normal,
    do: @hurry_ms

  defp pause(%{all: all, found: found}, _state) when found * @part > all, do: @least_ms
  defp pause(_result, state), do: min(state.pause_ms * 2, @rest_ms)

  # Begins the next walk as early as allowed.
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
    now = System.monotonic_time(:millisecond)
    recent? = state.level != :normal and state.walked? and now - state.ended_ms <= @recent_ms
    walk = fn -> send(census, {:walked, Walk.run(settled, recent?)}) end
    {_pid, ref} = :erlang.spawn_opt(walk, [:monitor, priority: priority(state.level)])
    %{state | walk: ref, moved?: false, began_ms: now}
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
