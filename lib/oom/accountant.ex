defmodule OOM.Accountant do
  @moduledoc false
  # Keeps the figures of all workers current in the background, so that the reaction needs none.
  #
  # It works in passes over the table of workers, a chunk at a time, each by a throw-away probe. In
  # calm time a pass is rare and its share of the CPU is bounded; under pressure passes follow one
  # another. A worker that does not answer is marked stale and passed by; the probe that waits for
  # it is left to wait.

  use GenServer

  alias OOM.{Probe, Victims, Workers}

  @chunk 500
  # How long a probe may stand at one worker before another is sent past it.
  @stall_ms 20
  # More than this many waiting probes would cost more than they tell.
  @max_waiting 64

  # Time between passes: at least this, and at least so many times the length of the last pass.
  @pace %{
    normal: {5_000, 50},
    elevated: {250, 4},
    high: {50, 1},
    critical: {10, 1}
  }

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options) do
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])
  end

  @doc "A new worker. Sent by the worker or its supervisor, who do not wait."
  @spec watch(pid()) :: :ok
  def watch(pid), do: tell({:watch, pid})

  @doc "The level has changed or memory grows: the guard will need fresh figures."
  @spec pressure(OOM.level(), integer() | nil) :: :ok
  def pressure(level, growth_bytes_per_s), do: tell({:pressure, level, growth_bytes_per_s})

  @doc "Runs one pass now and returns when it is through; for tests and tools."
  @spec pass() :: :ok
  def pass, do: GenServer.call(__MODULE__, :pass, :infinity)

  @impl true
  def init(nil) do
    for {pid, _} <- everyone(), do: Process.monitor(pid)

    state = %{
      level: :normal,
      growth: 0,
      # the pass: nil, or what is left of it
      rest: nil,
      chunk: nil,
      probe: nil,
      # where the probe stood at the last look
      seen: nil,
      started_ms: nil,
      # probes that wait for a worker, by monitor
      waiting: %{},
      callers: [],
      timer: nil
    }

    {:ok, next_pass(state, 0)}
  end

  @impl true
  def handle_call(:pass, from, state),
    do: {:noreply, begin_pass(%{state | callers: [from | state.callers]})}

  @impl true
  def handle_info({:watch, pid}, state) do
    Process.monitor(pid)
    {:noreply, state}
  end

  def handle_info({:pressure, level, growth}, state) do
    state = %{state | level: level, growth: max(growth || 0, 0)}
    if level == :normal, do: {:noreply, state}, else: {:noreply, begin_pass(state)}
  end

  def handle_info(:pass, state), do: {:noreply, begin_pass(%{state | timer: nil})}

  def handle_info({:look, probe}, %{probe: {_, _} = probe} = state), do: {:noreply, look(state)}
  def handle_info({:look, _probe}, state), do: {:noreply, state}

  def handle_info({:DOWN, ref, :process, probe, _}, %{probe: {probe, ref}} = state),
    do: {:noreply, chunk_done(state)}

  def handle_info({:DOWN, ref, :process, _, _}, %{waiting: waiting} = state)
      when is_map_key(waiting, ref),
      do: {:noreply, %{state | waiting: Map.delete(waiting, ref)}}

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state) do
    Workers.delete(pid)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # A pass that is under way is fresh enough.
  defp begin_pass(%{probe: nil} = state) do
    now = now()
    Victims.sweep(now)
    next_chunk(%{cancel(state) | rest: @chunk, started_ms: now})
  end

  defp begin_pass(state), do: state

  defp next_chunk(state) do
    case Workers.pids(state.rest) do
      :done ->
        end_pass(state)

      {pids, rest} ->
        chunk = Probe.chunk(pids -- Map.values(state.waiting))
        send_probe(%{state | rest: rest, chunk: chunk, seen: nil})
    end
  end

  defp send_probe(state) do
    # A signal lends the worker the priority of who asks, so under pressure even a worker at the
    # end of a long run queue answers at once.
    priority = if state.level == :normal, do: :normal, else: :high
    probe = Probe.start(state.chunk, priority)
    Process.send_after(self(), {:look, probe}, @stall_ms)
    %{state | probe: probe}
  end

  defp look(state) do
    case Probe.current(state.chunk) do
      {_, pid} = same when same == state.seen ->
        stalled(state, pid)

      current ->
        Process.send_after(self(), {:look, state.probe}, @stall_ms)
        %{state | seen: current}
    end
  end

  # The worker has had at least one interval. Its probe may wait on; another takes the rest.
  defp stalled(state, pid) do
    {probe, ref} = state.probe
    suspects = map_size(state.waiting) + 1
    grown = div(state.growth * @stall_ms, 1_000 * suspects)
    Workers.stale(pid, grown, now())

    waiting =
      if map_size(state.waiting) < @max_waiting do
        Map.put(state.waiting, ref, pid)
      else
        Process.demonitor(ref, [:flush])
        Process.exit(probe, :kill)
        state.waiting
      end

    send_probe(%{state | waiting: waiting, seen: nil})
  end

  # Workers that already are waited for grow stale too.
  defp chunk_done(state), do: next_chunk(%{state | probe: nil, chunk: nil})

  defp end_pass(state) do
    now = now()
    for pid <- Map.values(state.waiting), do: Workers.stale(pid, 0, now)
    for from <- state.callers, do: GenServer.reply(from, :ok)
    state = %{state | rest: nil, chunk: nil, callers: []}
    {least, times} = @pace[state.level]
    next_pass(state, max(least, times * (now - state.started_ms)))
  end

  defp next_pass(state, delay_ms),
    do: %{cancel(state) | timer: Process.send_after(self(), :pass, delay_ms)}

  defp cancel(%{timer: nil} = state), do: state

  defp cancel(%{timer: timer} = state) do
    Process.cancel_timer(timer)
    %{state | timer: nil}
  end

  defp everyone,
    do: :ets.select(Workers, [{{:"$1", :_, :_, :_, :_, :_, :_, :_}, [], [{{:"$1", nil}}]}])

  defp tell(message) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, message)
    :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
