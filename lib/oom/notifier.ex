defmodule OOM.Notifier do
  @moduledoc false
  # Tells subscribers about changes of level. A process of its own, so that a hundred thousand
  # subscribers cost the guard one message.

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
  def init(nil), do: {:ok, %{}}

  @impl true
  def handle_call({:subscribe, pid}, _from, subscribers),
    do: {:reply, :ok, Map.put_new_lazy(subscribers, pid, fn -> Process.monitor(pid) end)}

  def handle_call({:unsubscribe, pid}, _from, subscribers) do
    {ref, subscribers} = Map.pop(subscribers, pid)
    if ref, do: Process.demonitor(ref, [:flush])
    {:reply, :ok, subscribers}
  end

  @impl true
  def handle_cast({:level, from, report}, subscribers) do
    snapshot = Snapshot.from_report(report)
    for {pid, _ref} <- subscribers, do: send(pid, {:oom, snapshot.level, snapshot})
    OOM.Reporter.level(from, snapshot)
    {:noreply, subscribers}
  end

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _}, subscribers),
    do: {:noreply, Map.delete(subscribers, pid)}

  def handle_info(_other, subscribers), do: {:noreply, subscribers}
end
