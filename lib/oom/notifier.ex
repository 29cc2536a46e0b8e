defmodule OOM.Notifier do
  @moduledoc false
  # Tells subscribers about changes of level. A process of its own, so that a hundred thousand subscribers
  # cost the guard a single message. The subscribers and the level told last are in a table (OOM.Tables), so
  # a subscription outlives a crash of the notifier.

  use GenServer

  alias OOM.Snapshot

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options) do
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])
  end

  @spec subscribe() :: :ok
  def subscribe, do: GenServer.call(__MODULE__, {:subscribe, self()})

  @spec unsubscribe() :: :ok
  def unsubscribe, do: GenServer.call(__MODULE__, {:unsubscribe, self()})

  @spec level(OOM.level(), map()) :: :ok
  def level(from, report), do: GenServer.cast(__MODULE__, {:level, from, report})

  @impl true
  def init(nil) do
    subscribers = for [pid] <- :ets.match(__MODULE__, {:"$1"}), into: %{}, do: monitored(pid)
    # The level may have changed before this start.
    tell(told(), %{Snapshot.now() | level: OOM.level()}, subscribers)
    {:ok, subscribers}
  end

  @impl true
  def handle_call({:subscribe, pid}, _from, subscribers) do
    :ets.insert(__MODULE__, {pid})
    {:reply, :ok, Map.put_new_lazy(subscribers, pid, fn -> Process.monitor(pid) end)}
  end

  def handle_call({:unsubscribe, pid}, _from, subscribers) do
    {ref, subscribers} = Map.pop(subscribers, pid)
    if ref, do: Process.demonitor(ref, [:flush])
    :ets.delete(__MODULE__, pid)
    {:reply, :ok, subscribers}
  end

  @impl true
  def handle_cast({:level, from, report}, subscribers) do
    tell(from, Snapshot.from_report(report), subscribers)
    {:noreply, subscribers}
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _}, subscribers) do
    :ets.delete(__MODULE__, pid)
    {:noreply, Map.delete(subscribers, pid)}
  end

  def handle_info(_other, subscribers), do: {:noreply, subscribers}

  defp tell(from, %Snapshot{level: level} = snapshot, subscribers) do
    if level != told() do
      for {pid, _ref} <- subscribers, do: send(pid, {:oom, level, snapshot})
      OOM.Reporter.level(from, snapshot)
      :ets.insert(__MODULE__, {:told, level})
    end

    :ok
  end

  defp told do
    case :ets.lookup(__MODULE__, :told) do
      [{_, level}] -> level
      [] -> :normal
    end
  end

  defp monitored(pid), do: {pid, Process.monitor(pid)}
end
