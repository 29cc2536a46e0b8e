defmodule OOM.Units do
  @moduledoc false
  # Who would go down together, and what that makes of their ranks: a child that takes others along
  # is worth as much as the most important of them, and cannot be killed where one of them is
  # protected. One that is held takes along what its supervisor's strategy does. A temporary one is
  # not held, and takes nobody; but where it is significant its supervisor may end, with all that is
  # below, and with what goes down with that one in turn.
  #
  # And it takes along whom it is bound to by links, or who waits for it (OOM.Bonds).
  #
  # The ranks the guard goes by are set in the background, after each walk. A row here keeps what a
  # worker is worth by itself beside its floor, which its supervisor's strategy gives it, and its bond;
  # and before a kill it is asked again whether one of the others is protected by now.

  alias OOM.{Holds, Priority, Tree, Workers}
  alias OOM.Tree.Census

  @last 1000

  @doc "Which children a strategy takes down with this one, of `{id, runs?}` in start order."
  @spec together(atom(), term(), Holds.Down.unit()) :: Holds.Down.unit()
  def together(:one_for_all, _id, children), do: children

  def together(:rest_for_one, id, children),
    do: Enum.drop_while(children, fn {other, _} -> other != id end)

  def together(_one_for_one, id, _children), do: [{id, true}]

  @doc "A worker declared its own rank: what it counts for with its floor."
  @spec declared(pid(), Priority.rank()) :: Priority.rank()
  def declared(pid, rank) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, floor, bond}] ->
        :ets.update_element(__MODULE__, pid, {2, rank})
        rank |> highest(floor) |> highest(bond)

      [] ->
        rank
    end
  end

  @doc """
  One that has just been started below a strategy that takes others along, and is worth `rank` unless it
  has said so itself: until somebody has looked with whom it goes, it goes last.
  """
  @spec started(pid(), Priority.rank()) :: Priority.rank()
  def started(pid, rank) do
    own = Workers.declared(pid) || rank
    :ets.insert(__MODULE__, {pid, own, @last, bond(pid)})
    Workers.rerank(pid, highest(own, @last))
    Census.changed()
    highest(own, @last)
  end

  @doc "The rank it has by itself."
  @spec own(pid()) :: Priority.rank() | nil
  def own(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, rank, _, _}] -> rank
      [] -> Workers.rank(pid)
    end
  end

  @doc """
  What its end costs, without those it is bound to: its own rank and its floor. `nil` of one that is not
  registered.
  """
  @spec worth(pid()) :: Priority.rank() | nil
  def worth(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, own, floor, _}] -> highest(own, floor)
      [] -> Workers.rank(pid)
    end
  end

  @doc "The rank of those it is bound to; 0 where there is nobody."
  @spec bond(pid()) :: Priority.rank()
  def bond(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, _, bond}] -> bond
      [] -> 0
    end
  end

  @doc "All that are worth more for those they are bound to."
  @spec bound() :: [pid()]
  def bound,
    do: :ets.select(__MODULE__, [{{:"$1", :_, :_, :"$2"}, [{:"/=", :"$2", 0}], [:"$1"]}])

  @doc "Whom a worker is bound to has been looked at."
  @spec bind(pid(), Priority.rank()) :: :ok
  def bind(pid, bond) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, _, ^bond}] ->
        :ok

      [{_, own, 0, _}] when bond == 0 ->
        :ets.delete(__MODULE__, pid)
        Workers.rerank(pid, own)

      [{_, own, floor, _}] ->
        :ets.update_element(__MODULE__, pid, {4, bond})
        Workers.rerank(pid, own |> highest(floor) |> highest(bond))

      [] ->
        own = Workers.rank(pid)
        if own != nil and highest(own, bond) != own, do: put(pid, own, 0, bond), else: :ok
    end
  end

  # It may have ended since.
  defp put(pid, own, floor, bond) do
    :ets.insert(__MODULE__, {pid, own, floor, bond})
    Workers.rerank(pid, own |> highest(floor) |> highest(bond))
  end

  @doc "A worker that is not in the table of workers just now, and is put back there with this rank."
  @spec spare(pid(), Priority.rank(), Priority.rank()) :: Priority.rank()
  def spare(pid, rank, bond) do
    {own, floor} =
      case :ets.lookup(__MODULE__, pid) do
        [{_, own, floor, _}] -> {own, floor}
        [] -> {rank, 0}
      end

    :ets.insert(__MODULE__, {pid, own, floor, bond})
    own |> highest(floor) |> highest(bond)
  end

  @doc """
  Whether this child of a supervisor must be left alone now: one that would go down with it is
  protected; or nobody has looked yet who would, since it or its supervisor was started. A supervisor
  that is too busy to tell keeps nobody from being killed.
  """
  @spec spared?(pid() | nil, pid()) :: boolean()
  def spared?(nil, _pid), do: false

  def spared?(supervisor, pid) do
    # Asked by the guard of each victim: of most, all there is to know is the strategy.
    case Tree.dependence(supervisor) do
      :none -> false
      :unknown -> not Tree.busy?(supervisor)
      :some -> spared?(pid, supervisor, Tree.lookup(supervisor))
    end
  end

  defp spared?(pid, supervisor, {_, _, _, _, {_, _, [_ | _]} = facts} = row),
    do: depends?(row) and together_spared?(pid, supervisor, facts)

  defp spared?(_pid, _supervisor, _ended), do: false

  defp together_spared?(pid, supervisor, {_, _, children} = facts) do
    case Enum.find(children, &(&1.pid == pid)) do
      nil -> not Tree.busy?(supervisor)
      child -> child |> with_it(supervisor, facts) |> Enum.any?(&protected?/1)
    end
  end

  defp protected?(pid) do
    case Tree.lookup(pid) do
      {_, _, _, _, {_, _, children}} -> Enum.any?(children, &(alone(&1.pid) == :protected))
      _ -> alone(pid) == :protected
    end
  end

  @doc "Sets all floors anew."
  @spec refresh() :: :ok
  def refresh do
    groups = for {_, _, _, _, {_, _, [_ | _]}} = row <- Tree.all(), depends?(row), do: row
    floors = if groups == [], do: %{}, else: floors(groups, subtrees())
    for {pid, floor} <- floors, do: _ = raise_to(pid, floor)

    # Those whose supervisor changed, and those that are gone.
    for {pid, own, _, bond} <- :ets.tab2list(__MODULE__), not is_map_key(floors, pid) do
      if bond != 0 and Workers.member?(pid) do
        put(pid, own, 0, bond)
      else
        :ets.delete(__MODULE__, pid)
        Workers.rerank(pid, own)
      end
    end

    :ok
  end

  defp depends?({_, _, _, _, {strategy, _, _}}) when strategy in [:one_for_all, :rest_for_one],
    do: true

  defp depends?({_, _, _, _, {_, auto, children}}),
    do: auto != :never and Enum.any?(children, & &1.significant)

  defp floors(groups, subtrees) do
    for {supervisor, _, _, _, facts} <- groups,
        child <- elem(facts, 2),
        is_pid(child.pid) and Workers.member?(child.pid),
        reduce: %{} do
      floors ->
        others = with_it(child, supervisor, facts)
        floor = others |> Enum.map(&Map.get(subtrees, &1, 0)) |> Enum.reduce(0, &highest/2)
        Map.put(floors, child.pid, floor)
    end
  end

  # The workers and supervisors that go with one that is killed, and it.
  defp with_it(%{restart: :temporary} = child, supervisor, {_, auto, _}),
    do: if(ends?(child, auto), do: ended(supervisor), else: [])

  defp with_it(child, _supervisor, {strategy, _, children}),
    do:
      for({%{pid: pid}, _} <- together(strategy, child, running(children)), is_pid(pid), do: pid)

  defp running(children), do: Enum.map(children, &{&1, is_pid(&1.pid)})

  # And with a supervisor that ends because of a significant child: to the one above it that is the
  # end of any other child with the reason `shutdown`.
  defp ended(supervisor) do
    with {_, _, parent, _, _} when is_pid(parent) <- Tree.lookup(supervisor),
         {_, _, _, _, {_, auto, children} = facts} <- Tree.lookup(parent),
         %{} = child <- Enum.find(children, &(&1.pid == supervisor)) do
      cond do
        child.restart == :permanent -> [supervisor | with_it(child, parent, facts)]
        ends?(child, auto) -> [supervisor | ended(parent)]
        true -> [supervisor]
      end
    else
      _ -> [supervisor]
    end
  end

  # It may be the last of those whose end ends their supervisor.
  defp ends?(child, auto), do: child.significant and auto != :never

  # The highest rank in what is below each supervisor, and of each worker, without floors.
  defp subtrees do
    parents = for {pid, _, parent, _, _} <- Tree.all(), into: %{}, do: {pid, parent}

    ranks =
      :ets.select(Workers, [
        {{:"$1", :_, :_, :_, :_, :"$2", :_, :_, :_}, [], [{{:"$1", :"$2"}}]}
      ])

    Enum.reduce(ranks, %{}, fn {pid, supervisor}, subtrees ->
      case alone(pid) do
        nil -> subtrees
        rank -> subtrees |> Map.put(pid, rank) |> up(supervisor, rank, parents)
      end
    end)
  end

  defp up(subtrees, nil, _rank, _parents), do: subtrees

  defp up(subtrees, supervisor, rank, parents) do
    case subtrees do
      # As high already, and so is all above it.
      %{^supervisor => known} when known == rank or known == :protected -> subtrees
      %{^supervisor => known} when is_integer(rank) and known > rank -> subtrees
      _ -> subtrees |> Map.put(supervisor, rank) |> up(parents[supervisor], rank, parents)
    end
  end

  defp raise_to(pid, floor) do
    with own when own != nil <- own(pid) do
      put(pid, own, floor, bond(pid))
    end
  end

  # What it is worth without whom its supervisor would end with it.
  defp alone(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, own, _, bond}] -> highest(own, bond)
      [] -> Workers.rank(pid)
    end
  end

  @doc "Of two ranks the one that goes later."
  @spec highest(Priority.rank(), Priority.rank()) :: Priority.rank()
  def highest(:protected, _), do: :protected
  def highest(_, :protected), do: :protected
  def highest(one, other), do: max(one, other)
end
