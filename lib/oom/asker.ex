defmodule OOM.Asker do
  @moduledoc false
  # Asks the next victims to shrink, where a worker has asked for the message (OOM.Pressure). A process of
  # its own, beside the guard: a message too late costs the guard's reaction nothing.

  use GenServer

  alias OOM.{Level, Native, Pressure, Snapshot, Stillness, Tables, Trim, VictimQueue, Workers}

  # The pause between looks from the level `:high` on.
  @look_ms 50
  # The longest pause, while memory stands still.
  @rest_ms 1_000
  # The pause between two messages to a worker.
  @again_ms 1_000
  # How long memory asked for counts as on its way: the worker has to run and to collect, the segments have
  # to go back, and a sample has to see the change.
  @coming_ms 500
  # No more than the guard would kill at once.
  @batch 64

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "Starts the looks from the level `:high` on. Sent by the guard, without waiting."
  @spec level(OOM.level()) :: :ok
  def level(level) when level in [:high, :critical] do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  def level(_lower), do: :ok

  @doc "Notes whether a worker wants the message."
  @spec listens(pid(), boolean()) :: :ok
  def listens(pid, true) do
    :ets.insert_new(__MODULE__, {pid, nil})
    # The worker may have ended since registration: no second `:DOWN` would remove the row.
    if Workers.member?(pid), do: :ok, else: forget(pid)
  end

  def listens(pid, false), do: forget(pid)

  @doc "Removes a worker's row."
  @spec forget(pid()) :: :ok
  def forget(pid) do
    :ets.delete(__MODULE__, pid)
    :ok
  end

  # State: the timer of the next look, the latest requests `{at_ms, bytes}`, and the pause between looks.
  # The level may have changed before this start.
  @impl true
  def init(nil), do: {:ok, look([], Stillness.new(@look_ms))}

  @impl true
  def handle_info(:look, {timer, lately, still}) do
    _ = if timer, do: Process.cancel_timer(timer)
    {:noreply, look(lately, still)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Without a worker that wants the message the looks end, until the level changes again.
  defp look(lately, still) do
    level = OOM.level()

    if Level.number(level) >= Level.number(:high) and :ets.info(__MODULE__, :size) > 0 do
      lately =
        with watcher when watcher != nil <- Tables.watcher(),
             report when is_map(report) <- Native.watcher_report(watcher) do
          ask(level, Snapshot.from_report(report), lately)
        else
          _ -> lately
        end

      still = Stillness.rest(still, Snapshot.now(), @look_ms, @rest_ms)
      {Process.send_after(self(), :look, still.pause_ms), lately, still}
    else
      {nil, lately, still}
    end
  end

  defp ask(level, snapshot, lately) do
    now = System.monotonic_time(:millisecond)
    need = Pressure.need_bytes(snapshot)
    {next, _why} = VictimQueue.choose(VictimQueue.limits(need, @batch, now))
    asked = for victim <- next, ask?(victim.pid, now), do: victim
    lately = for {at, bytes} <- lately, now - at < @again_ms, do: {at, bytes}
    # At :critical there is no time to wait for memory on its way.
    asked = if level == :high and coming(lately, now) >= need, do: [], else: asked

    for %{pid: pid, bytes: bytes} <- asked do
      :ets.update_element(__MODULE__, pid, {2, now})
      deadline = now + Pressure.left_ms(snapshot)
      pressure = %Pressure{level: level, bytes: bytes, need_bytes: need, deadline_ms: deadline}
      send(pid, {:oom_pressure, pressure})
    end

    lately = if asked == [], do: lately, else: [{now, sum(asked)} | lately]

    # The VM caches the segments of freed memory; at :critical the guard trims.
    _ =
      if level == :high and lately != [] and Trim.enabled?(Tables.config().trim),
        do: Trim.start()

    lately
  end

  defp coming(lately, now),
    do: Enum.sum(for {at, bytes} <- lately, now - at < @coming_ms, do: bytes)

  defp sum(victims), do: victims |> Enum.map(& &1.bytes) |> Enum.sum()

  defp ask?(pid, now) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, asked}] -> asked == nil or now - asked >= @again_ms
      [] -> false
    end
  end
end
