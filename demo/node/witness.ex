defmodule Demo.Node.Witness do
  @moduledoc false
  # Sees every worker come and go by monitors of its own, apart from what OOM says of itself.
  # Its table tells the load which connection is open.

  use GenServer

  alias Demo.Node.Connection

  @memory {:shutdown, :memory_pressure}

  def start_link do
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ets.insert(__MODULE__, {:kept, :counters.new(1, [:write_concurrency])})
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])
  end

  @doc "Called by a worker in its `init/1`. Does not wait."
  def up(kind, id), do: send(__MODULE__, {:up, {kind, id}, self()})

  @doc "The counter of exports that connections have kept."
  def kept, do: :ets.lookup_element(__MODULE__, :kept, 2)

  @doc "The cache is loaded."
  def loaded, do: :ets.insert(__MODULE__, {:loaded, true})

  @doc "Whether it is."
  def loaded?, do: :ets.member(__MODULE__, :loaded)

  @doc "The pid of a worker, or `nil` while it is down."
  def whereis(kind, id) do
    case :ets.lookup(__MODULE__, {kind, id}) do
      [{_, pid}] -> pid
      [] -> nil
    end
  end

  @doc """
  What has happened so far: workers alive by kind; of the connections that leak, `killed` distinct
  ones; of the healthy ones, `lost` distinct ones; `kills` of both in all, `restarted` ones, and `other`
  exits, of which there must be none.
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

  # `:killed` is the guard's doing too: nobody else here kills, and it is how a worker ends that
  # would pass its max_heap_size.
  defp ended({:low, id}, reason, state) when reason in [@memory, :killed],
    do: %{state | dead: MapSet.put(state.dead, id), kills: state.kills + 1}

  defp ended(name, reason, state), do: %{state | other: [{name, reason} | state.other]}

  defp count(alive, kind, by), do: Map.update(alive, kind, by, &(&1 + by))
end
