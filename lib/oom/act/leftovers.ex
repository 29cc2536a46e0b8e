defmodule OOM.Leftovers do
  @moduledoc false
  # Ends the processes that a victim started and that outlive the victim's grace. A victim takes linked
  # processes along, but a supervisor started by the victim ends its children in order and may wait half a
  # minute for each, while the child grows. The registered worker above the child is gone, so no kill would reach
  # the child.
  #
  # Each process belongs to its parent, whether linked or not. With less than half of the floor left, the
  # processes of an ended victim end before the grace is over. Registered workers worth more than the victim
  # stay, and so do the processes below.
  #
  # A process of its own: one look at all processes serves all victims whose grace has ended meanwhile.

  use GenServer

  alias OOM.{Priority, Reporter, Steps, Units}

  # Time between two looks at victims and headroom while a grace lasts; and the least pause after a look at all
  # processes, as a multiple of its length: a million processes take 0.6 s.
  @look_ms 10
  @share 4
  # The look at all processes is repeated for the processes below those found, so many times at most.
  @generations 16

  @typep victim :: {pid(), Priority.rank(), due_ms :: integer()}

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "Tells this process that a victim of this rank has been ordered to leave within `grace_ms`."
  @spec watch(pid(), Priority.rank(), non_neg_integer()) :: :ok
  def watch(pid, rank, grace_ms) do
    with keeper when is_pid(keeper) <- Process.whereis(__MODULE__),
         do: send(keeper, {:victim, {pid, rank, now() + grace_ms}})

    :ok
  end

  @impl true
  def init(nil), do: {:ok, %{victims: [], rest_until_ms: now()}}

  @impl true
  def handle_info({:victim, victim}, %{victims: victims} = state) do
    if victims == [], do: look_in(@look_ms, state)
    {:noreply, %{state | victims: [victim | victims]}}
  end

  def handle_info(:look, state) do
    began = now()
    {due, later} = Enum.split_with(state.victims, due?(began, not Steps.fits?(0)))
    if due != [], do: due |> Map.new(&{elem(&1, 0), elem(&1, 1)}) |> end_below()
    ended = now()
    state = %{state | victims: later, rest_until_ms: ended + @share * (ended - began)}
    if later != [], do: look_in(@look_ms, state)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp look_in(ms, state) do
    _ = Process.send_after(self(), :look, max(ms, state.rest_until_ms - now()))
    :ok
  end

  @spec due?(integer(), boolean()) :: (victim() -> boolean())
  defp due?(now, short?),
    do: fn {pid, _, due_ms} -> due_ms <= now or (short? and not Process.alive?(pid)) end

  @doc "Ends the processes that these victims, each with its rank, have started."
  @spec end_below(%{pid() => Priority.rank()}) :: :ok
  def end_below(victims) do
    count = end_below(victims, 0, @generations)
    if count > 0, do: Reporter.leftovers(count, map_size(victims)), else: :ok
  end

  # Parents end before their children, so no supervisor starts a child again.
  defp end_below(_above, count, 0), do: count
  defp end_below(above, count, _generations) when map_size(above) == 0, do: count

  defp end_below(above, count, generations) do
    below =
      for pid <- Process.list(), {rank, true} <- [whose(pid, above)], into: %{}, do: {pid, rank}

    for {pid, _rank} <- below, do: Process.exit(pid, :kill)
    end_below(below, count + map_size(below), generations - 1)
  end

  # The rank of the victim above, and whether the process ends.
  defp whose(pid, above) do
    with {_, parent} when is_map_key(above, parent) <- :erlang.process_info(pid, :parent) do
      rank = above[parent]
      {rank, not is_map_key(above, pid) and worth_no_more?(Units.own(pid), rank)}
    end
  end

  # An unregistered process is worth as much as the victim.
  defp worth_no_more?(nil, _rank), do: true
  defp worth_no_more?(own, rank), do: Units.highest(own, rank) == rank

  defp now, do: System.monotonic_time(:millisecond)
end
