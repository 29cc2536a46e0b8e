defmodule OOM.Asker do
  @moduledoc false
  # Asks those who would be killed next to shrink, if they want to be asked (OOM.Pressure). In a
  # process of its own, beside the guard: a word that comes too late has cost the reaction nothing.

  use GenServer

  alias OOM.{Level, Native, Plan, Pressure, Snapshot, Tables, Trim, Workers}

  # How often to look while the level is high, and how often one worker is asked.
  @look_ms 50
  @again_ms 1_000
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

  # The level may have changed while nobody was here.
  @impl true
  def init(nil), do: {:ok, look(nil)}

  @impl true
  def handle_info(:look, timer) do
    _ = if timer, do: Process.cancel_timer(timer)
    {:noreply, look(nil)}
  end

  def handle_info(_other, timer), do: {:noreply, timer}

  # Where nobody listens there is nothing to do, until the level changes again.
  defp look(nil) do
    level = OOM.level()

    if Level.number(level) >= Level.number(:high) and :ets.info(__MODULE__, :size) > 0 do
      with watcher when watcher != nil <- Tables.watcher(),
           report when is_map(report) <- Native.watcher_report(watcher),
           do: ask(level, Snapshot.from_report(report))

      Process.send_after(self(), :look, @look_ms)
    end
  end

  defp ask(level, snapshot) do
    now = System.monotonic_time(:millisecond)
    need = Pressure.need_bytes(snapshot)
    next = Plan.pick(Plan.limits(need, @batch, now))
    asked = for victim <- next, ask?(victim.pid, now), do: victim

    for %{pid: pid, bytes: bytes} <- asked do
      :ets.update_element(__MODULE__, pid, {2, now})
      deadline = now + Pressure.left_ms(snapshot)
      pressure = %Pressure{level: level, bytes: bytes, need_bytes: need, deadline_ms: deadline}
      send(pid, {:oom_pressure, pressure})
    end

    # What they let go is cached by the VM; at :critical the guard sees to that.
    if level == :high and listening?(now) and Trim.enabled?(Tables.config().trim),
      do: Trim.start()
  end

  defp ask?(pid, now) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, asked}] -> asked == nil or now - asked >= @again_ms
      [] -> false
    end
  end

  # Whether somebody was asked a moment ago.
  defp listening?(now) do
    recent = [{{:_, :"$1"}, [{:is_integer, :"$1"}, {:>, :"$1", now - @again_ms}], [true]}]
    :ets.select(__MODULE__, recent, 1) != :"$end_of_table"
  end
end
