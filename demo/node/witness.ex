defmodule Demo.Node.Witness do
  @moduledoc false
  # Sees every worker come and go, by monitors independent of OOM. The table tells the load which
  # connection is open.

  use GenServer

  alias Demo.Node.Connection

  @memory {:shutdown, :memory_pressure}

  def start_link do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ets.insert(__MODULE__, {:kept, :counters.new(1, [:write_concurrency])})
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])
  end

  @doc "Registers a worker; called in its `init/1`. Does not wait."
  def up(kind, id), do: send(__MODULE__, {:up, {kind, id}, self()})

  @doc "Returns the counter of exports kept by connections."
  def kept, do: :ets.lookup_element(__MODULE__, :kept, 2)

  @doc "Notes that the cache is loaded."
  def loaded, do: :ets.insert(__MODULE__, {:loaded, true})

  @doc "Tells whether the cache is loaded."
  def loaded?, do: :ets.member(__MODULE__, :loaded)

  @doc "Returns the pid of a worker, or `nil` while the worker is down."
  def whereis(kind, id) do
    case :ets.lookup(__MODULE__, {kind, id}) do
      [{_, pid}] -> pid
      [] -> nil
    end
  end

  @doc """
  Returns the events so far: workers alive by kind; `killed`: distinct leaking connections killed;
  `lost`: distinct healthy connections killed; `kills` of both in all, `restarted` connections,
  and `other` exits, of which there must be none.
  """
  def counts, do: GenServer.call(__MODULE__, :counts, 60_000)

  @impl true
  def init(nil) do
    {:ok, %{names: %{}, alive: %{}, dead: MapSet.new(), kills: 0, starts: 0, other: []}}
  end

  @impl true
  def handle_call(:counts, _from, state) do
    killed = Enum.count(state.dead, &Connection.leaks?/1)

    {:reply,
     %{
       alive: Map.merge(%{low: 0, normal: 0, protected: 0}, state.alive),
       killed: killed,
       lost: MapSet.size(state.dead) - killed,
       kills: state.kills,
       restarted: max(state.starts - Connection.count(), 0),
       other: state.other
     }, state}
  end

  @impl true
  def handle_info({:up, {kind, _} = name, pid}, state) do
    Process.monitor(pid)
    :ets.insert(__MODULE__, {name, pid})
    starts = if kind == :low, do: state.starts + 1, else: state.starts
    names = Map.put(state.names, pid, name)
    {:noreply, %{state | names: names, alive: count(state.alive, kind, 1), starts: starts}}
  end

  def handle_info({:DOWN, _ref, :process, pid, reason}, state) do
    {{kind, _} = name, names} = Map.pop!(state.names, pid)
    :ets.delete_object(__MODULE__, {name, pid})
    state = %{state | names: names, alive: count(state.alive, kind, -1)}
    {:noreply, ended(name, reason, state)}
  end

  # `:killed` comes from the guard too: nobody else here kills, and a worker about to pass its
  # max_heap_size ends this way.
  defp ended({:low, id}, reason, state) when reason in [@memory, :killed],
    do: %{state | dead: MapSet.put(state.dead, id), kills: state.kills + 1}

  defp ended(name, reason, state), do: %{state | other: [{name, reason} | state.other]}

  defp count(alive, kind, by), do: Map.update(alive, kind, by, &(&1 + by))
end
