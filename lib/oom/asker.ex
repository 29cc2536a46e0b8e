defmodule OOM.Asker do
  @moduledoc false
  # Asks those who would be killed next to shrink, if they want to be asked (OOM.Pressure). In a
  # process of its own, beside the guard: a word that comes too late has cost the reaction nothing.

  use GenServer

  alias OOM.{Level, Native, Pressure, Snapshot, Stillness, Tables, Trim, VictimQueue, Workers}

  # How often to look while the level is high, and how often one worker is asked.
  @look_ms 50
  # The same at most, while memory stands still.
  @rest_ms 1_000
  @again_ms 1_000
  # How long what was asked for counts as on its way: its owner has to run and to collect, the
  # segments to go back, and a sample to see it.
  @coming_ms 500
  # No more than the guard would kill at once.
  @batch 64

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "The level has changed; by the guard, who does not wait."
  @spec level(OOM.level()) :: :ok
  def level(level) when level in [:high, :critical] do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  def level(_lower), do: :ok

  @doc "This worker wants to be asked, or no longer."
  @spec listens(pid(), boolean()) :: :ok
  def listens(pid, true) do
    :ets.insert_new(__MODULE__, {pid, nil})
    # It may have ended since it was registered, and nobody would tell that again.
    if Workers.member?(pid), do: :ok, else: forget(pid)
  end

  def listens(pid, false), do: forget(pid)

  @doc "It has ended."
  @spec forget(pid()) :: :ok
  def forget(pid) do
    :ets.delete(__MODULE__, pid)
    :ok
  end

  # The timer of the next look, what was asked for lately: `{at_ms, bytes}`, and how long looks rest.
  # The level may have changed while nobody was here.
  @impl true
  def init(nil), do: {:ok, look([], Stillness.new(@look_ms))}

  @impl true
  def handle_info(:look, {timer, lately, still}) do
    _ = if timer, do: Process.cancel_timer(timer)
    {:noreply, look(lately, still)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Where nobody listens there is nothing to do, until the level changes again.
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

      still = Stillness.rest(still, OOM.snapshot(), @look_ms, @rest_ms)
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
    # At :critical there is no time to see what comes of it.
    asked = if level == :high and coming(lately, now) >= need, do: [], else: asked

    for %{pid: pid, bytes: bytes} <- asked do
      :ets.update_element(__MODULE__, pid, {2, now})
      deadline = now + Pressure.left_ms(snapshot)
      pressure = %Pressure{level: level, bytes: bytes, need_bytes: need, deadline_ms: deadline}
      send(pid, {:oom_pressure, pressure})
    end

    lately = if asked == [], do: lately, else: [{now, sum(asked)} | lately]

    # What they let go is cached by the VM; at :critical the guard sees to that.
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
