defmodule OOM.Accountant do
  @moduledoc false
  # Keeps the figures of all workers current in the background, so that the guard's reaction measures none.
  #
  # The accountant works in passes over the table of workers, a chunk at a time, with throw-away probes. In
  # calm time a pass is rare and its share of the CPU is bounded. Under pressure passes follow one another,
  # and several probes share a chunk, because a probe may have to wait for a running worker. A worker without
  # an answer is marked stale and passed by; the waiting probe is left behind.

  use GenServer

  alias OOM.Accountant.{Pace, Readings}
  alias OOM.{Beginners, Guard, Native, Plan, Probe, Snapshot, Stillness, Tables}
  alias OOM.{Victims, Workers}
  alias OOM.Bonds.Rounds
  alias OOM.Tree.Census

  @chunk 500
  # Under pressure.
  @probes 8
  # How long a probe may stand at one worker before another is sent past it.
  @stall_ms 20
  # How long a pass waits for what workers own to be read; in vain where it takes longer.
  @owned_ms 5
  # The same where somebody waits for the pass.
  @owned_called_ms 250
  # More waiting probes would cost more than their answers are worth.
  @max_waiting 64

  # A sweep of the plan's keys without a worker comes once in so many passes; such keys cost little.
  @sweep_passes 16

  # When a million workers end together, a million messages wait off the heap; the heap itself is small.
  @spawn [priority: :high, message_queue_data: :off_heap, fullsweep_after: 0]

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: @spawn)

  @doc "Tells the accountant a new worker. Sent by the worker or its supervisor, without waiting."
  @spec watch(pid()) :: :ok
  def watch(pid), do: tell({:watch, pid})

  @doc "Tells the accountant that the level has changed or memory grows: the guard will need fresh figures."
  @spec pressure(OOM.level(), integer() | nil) :: :ok
  def pressure(level, growth_bytes_per_s) do
    Census.pressure(level)
    tell({:pressure, level, growth_bytes_per_s})
  end

  @doc "Runs a whole pass and returns at the end; for tests and tools."
  @spec pass() :: :ok
  def pass, do: GenServer.call(__MODULE__, :pass, :infinity)

  @impl true
  def init(nil) do
    monitor(Workers.pids(@chunk))

    state = %{
      # The guard tells only of changes.
      level: OOM.level(),
      growth: max(Snapshot.now().growth_bytes_per_s || 0, 0),
      # the continuation of the pass under way, or nil
      rest: nil,
      chunk: nil,
      # the probes at work on the chunk, by monitor: {probe, place at the last look}
      probes: %{},
      started_ms: nil,
      # the end and the length of the last pass
      ended_ms: nil,
      took_ms: 0,
      # the readings of OOM.Owned
      readings: %Readings{},
      # the working set at the begin of the last pass, and the pause between looks since
      still: Stillness.new(1),
      # the workers that probes left behind wait for, by monitor
      waiting: %{},
      callers: [],
      # callers during a pass wait for the next: the pass under way may be past their worker
      next_callers: [],
      passes: 0,
      timer: nil,
      # the watcher was told that there are no workers
      alone?: false
    }

    {:ok, next_pass(state, 0)}
  end

  @impl true
  def handle_call(:pass, from, %{rest: nil} = state),
    do: {:noreply, begin_pass(%{state | callers: [from]})}

  def handle_call(:pass, from, state),
    do: {:noreply, %{state | next_callers: [from | state.next_callers]}}

  @impl true
  def handle_info({:watch, pid}, state) do
    Process.monitor(pid)
    {:noreply, watched(state)}
  end

  def handle_info({:pressure, level, growth}, state) do
    state = %{state | level: level, growth: max(growth || 0, 0)}
    if level == :normal, do: {:noreply, state}, else: {:noreply, soon(state)}
  end

  def handle_info(:pass, state) do
    state = %{state | timer: nil}
    snapshot = Snapshot.now()
    state = tell_of_workers(state)

    cond do
      state.started_ms == nil or moved?(state, snapshot) ->
        {:noreply, state |> begin_pass() |> moved()}

      now() - state.started_ms >= Pace.valid_ms(state.took_ms) ->
        {:noreply, begin_pass(state)}

      true ->
        still = state.still |> Pace.rest(snapshot, state.level) |> Stillness.lowest(snapshot)
        {:noreply, next_pass(%{state | still: still}, still.pause_ms)}
    end
  end

  def handle_info({:look, :owned}, %{chunk: :owned} = state), do: {:noreply, next_chunk(state)}
  def handle_info({:look, chunk}, %{chunk: chunk} = state), do: {:noreply, look(state)}
  def handle_info({:look, _done}, state), do: {:noreply, state}

  def handle_info({:DOWN, ref, :process, _, _}, %{probes: probes} = state)
      when is_map_key(probes, ref) do
    case Map.delete(probes, ref) do
      none when none == %{} -> {:noreply, next_chunk(%{state | probes: none, chunk: nil})}
      others -> {:noreply, %{state | probes: others}}
    end
  end

  def handle_info({:DOWN, ref, :process, _, _}, %{readings: %{readers: readers}} = state)
      when is_map_key(readers, ref) do
    state = %{state | readings: Readings.ended(state.readings, ref, now())}

    if state.chunk == :owned and Readings.over?(state.readings),
      do: {:noreply, next_chunk(state)},
      else: {:noreply, state}
  end

  def handle_info({:DOWN, ref, :process, _, _}, %{waiting: waiting} = state)
      when is_map_key(waiting, ref),
      do: {:noreply, %{state | waiting: Map.delete(waiting, ref)}}

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    Workers.delete(pid)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # For some ten seconds after a load the VM gives back cached segments, one a second. Memory that only falls
  # makes no figure urgent, as long as no worker is about to be killed.
  defp moved?(%{level: level, still: still}, snapshot) when level in [:normal, :elevated],
    do: Stillness.risen?(still, snapshot)

  defp moved?(%{still: still}, snapshot), do: Stillness.moved?(still, snapshot)

  # The census and the rounds rest while memory stands still, until told.
  defp moved(state) do
    Census.moved()
    Rounds.moved()
    state
  end

  # Without workers the watcher samples more rarely. A new watcher may have come since the last look, so
  # each look tells again.
  defp tell_of_workers(state) do
    with 0 <- Workers.count(), watcher when watcher != nil <- Tables.watcher() do
      Native.watcher_workers(watcher, false)
      %{state | alone?: true}
    else
      _ -> state
    end
  end

  defp watched(%{alone?: false} = state), do: state

  defp watched(state) do
    _ =
      with watcher when watcher != nil <- Tables.watcher(),
           do: Native.watcher_workers(watcher, true)

    %{state | alone?: false}
  end

  # The level may change several times a second, and a pass over 100,000 workers takes a second. So the pause
  # after a pass holds for pressure, too, and a pass that is under way is fresh enough.
  defp soon(%{rest: nil} = state) do
    left_ms = if state.ended_ms, do: state.ended_ms + pause_ms(state) - now(), else: 0
    if left_ms <= 0, do: begin_pass(state), else: next_pass(state, left_ms)
  end

  defp soon(state), do: state

  defp begin_pass(%{rest: nil} = state) do
    now = now()
    Victims.sweep(now)
    still = %{Stillness.new(1) | at_bytes: Snapshot.now().working_set_bytes}
    state = %{cancel(state) | rest: @chunk, started_ms: now, still: still}
    _ = if state.level != :normal, do: :erlang.spawn_opt(Beginners, :read, [], priority: :high)

    # The readings count as the first chunk. The probes follow at the end, or after a while: a process
    # filling a table may hold the table's lock.
    state = %{state | readings: Readings.start(state.readings, now, state.level)}

    if Readings.over?(state.readings) do
      next_chunk(state)
    else
      wait_ms = if state.callers == [], do: @owned_ms, else: @owned_called_ms
      Process.send_after(self(), {:look, :owned}, wait_ms)
      %{state | chunk: :owned}
    end
  end

  defp begin_pass(state), do: state

  defp next_chunk(state) do
    case Workers.pids(state.rest) do
      :done ->
        end_pass(%{state | chunk: nil})

      {pids, rest} ->
        chunk = Probe.chunk(pids -- Map.values(state.waiting))
        Process.send_after(self(), {:look, chunk}, @stall_ms)
        count = if state.level == :normal, do: 1, else: @probes
        send_probes(%{state | rest: rest, chunk: chunk}, count)
    end
  end

  defp send_probes(state, 0), do: state

  defp send_probes(state, count) do
    {probe, ref} = Probe.start(state.chunk)
    send_probes(%{state | probes: Map.put(state.probes, ref, {probe, nil})}, count - 1)
  end

  defp look(state) do
    Process.send_after(self(), {:look, state.chunk}, @stall_ms)
    Enum.reduce(Map.keys(state.probes), state, &look/2)
  end

  defp look(ref, state) do
    {probe, seen} = state.probes[ref]

    case Probe.stands_at(probe) do
      nil -> state
      ^seen -> stalled(ref, elem(seen, 1), state)
      worker -> %{state | probes: %{state.probes | ref => {probe, worker}}}
    end
  end

  # The worker has had at least one interval to answer. The probe may wait on; another takes the rest.
  defp stalled(ref, worker, state) do
    {{{probe, _place}, _seen}, probes} = Map.pop!(state.probes, ref)
    suspects = map_size(state.waiting) + 1
    grown = div(state.growth * @stall_ms, 1_000 * suspects)
    # A worker without an answer no longer counts as small, whatever the last figure was.
    Workers.stale(worker, max(grown, Tables.config().min_victim_bytes), now())

    waiting =
      if map_size(state.waiting) < @max_waiting do
        Map.put(state.waiting, ref, worker)
      else
        Process.demonitor(ref, [:flush])
        Process.exit(probe, :kill)
        state.waiting
      end

    send_probes(%{state | waiting: waiting, probes: probes}, 1)
  end

  defp end_pass(state) do
    now = now()
    for pid <- Map.values(state.waiting), do: Workers.stale(pid, 0, now)
    # Protected workers are not in the plan, so its size alone does not tell.
    passes = rem(state.passes + 1, @sweep_passes)
    if passes == 0 or Plan.size() > Workers.count(), do: Plan.sweep()
    if state.level != :normal, do: Guard.look()
    for from <- state.callers, do: GenServer.reply(from, :ok)
    took_ms = now - state.started_ms
    state = %{state | rest: nil, ended_ms: now, took_ms: took_ms, passes: passes}
    state = %{state | callers: state.next_callers, next_callers: []}

    if state.callers == [],
      do: next_pass(state, pause_ms(state)),
      else: begin_pass(state)
  end

  defp pause_ms(state), do: Pace.pause_ms(state.level, state.took_ms)

  defp next_pass(state, delay_ms),
    do: %{cancel(state) | timer: Process.send_after(self(), :pass, delay_ms)}

  defp cancel(%{timer: nil} = state), do: state

  defp cancel(%{timer: timer} = state) do
    _ = Process.cancel_timer(timer)
    %{state | timer: nil}
  end

  defp monitor(:done), do: :ok

  defp monitor({pids, rest}) do
    Enum.each(pids, &Process.monitor/1)
    monitor(Workers.pids(rest))
  end

  defp tell(message) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, message)
    :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
