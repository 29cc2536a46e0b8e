defmodule OOM.Units do
  @moduledoc false
  # The ranks of workers that go down together. A supervisor's strategy takes siblings down with a held
  # child. The child therefore has the highest rank among these siblings, and a protected sibling spares
  # the child. A temporary child is not held and takes no sibling down. The end of a significant temporary
  # child may end the supervisor with the whole subtree, and siblings of the supervisor in turn.
  #
  # Links and waiting callers (OOM.Bonds) raise a rank in the same way.
  #
  # The guard goes by ranks set in the background, after each walk. A row here keeps three ranks of a
  # worker: its own, the floor (from the supervisor's strategy) and the bond. Before a kill, spared?/2
  # checks again for protected siblings.

  alias OOM.{Holds, Priority, Tree, Workers}
  alias OOM.Tree.Census

  @last 1000

  @doc "Returns the children a strategy takes down with child `id`, from `{id, runs?}` in start order."
  @spec together(atom(), term(), Holds.Down.unit()) :: Holds.Down.unit()
  def together(:one_for_all, _id, children), do: children

  def together(:rest_for_one, id, children),
    do: Enum.drop_while(children, fn {other, _} -> other != id end)

  def together(_one_for_one, id, _children), do: [{id, true}]

  @doc "Stores the rank a worker has declared; returns its effective rank, with floor and bond."
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
  Registers a worker just started under a strategy with dependent children; returns its effective rank.
  The worker's own rank is `rank` unless declared otherwise. The worker goes last until a walk has found
  the siblings.
  """
  @spec started(pid(), Priority.rank()) :: Priority.rank()
  def started(pid, rank) do
    own = Workers.declared(pid) || rank
    :ets.insert(__MODULE__, {pid, own, @last, bond(pid)})
    Workers.rerank(pid, highest(own, @last))
    Census.changed()
    highest(own, @last)
  end

  @doc "Returns the worker's own rank, without floor and bond; `nil` for an unregistered process."
  @spec own(pid()) :: Priority.rank() | nil
  def own(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, rank, _, _}] -> rank
      [] -> Workers.rank(pid)
    end
  end

  @doc """
  Returns the rank of a worker without its bond: the higher of own rank and floor. `nil` for an
  unregistered process.
  """
  @spec worth(pid()) :: Priority.rank() | nil
  def worth(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, own, floor, _}] -> highest(own, floor)
      [] -> Workers.rank(pid)
    end
  end

  @doc "Returns the rank of the processes a worker is bound to; 0 for none."
  @spec bond(pid()) :: Priority.rank()
  def bond(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, _, bond}] -> bond
      [] -> 0
    end
  end

  @doc "Returns all workers with a bond."
  @spec bound() :: [pid()]
  def bound,
    do: :ets.select(__MODULE__, [{{:"$1", :_, :_, :"$2"}, [{:"/=", :"$2", 0}], [:"$1"]}])

  @doc "Stores the bond of a worker and sets its effective rank."
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

  # The worker may have ended since.
  defp put(pid, own, floor, bond) do
    :ets.insert(__MODULE__, {pid, own, floor, bond})
    Workers.rerank(pid, own |> highest(floor) |> highest(bond))
  end

  @doc "Stores the bond of a worker taken out of the table of workers; returns the rank to put it back with."
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
  Tells whether a child of `supervisor` must not be killed now: a sibling that would go down too is
  protected, or no walk has looked at the siblings since the child or the supervisor started. A
  supervisor too busy to answer spares no child.
  """
  @spec spared?(pid() | nil, pid()) :: boolean()
  def spared?(nil, _pid), do: false

  def spared?(supervisor, pid) do
    # The guard asks for each victim. For most victims, the strategy decides alone.
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
      child -> child |> with_it(supervisor, facts, &Tree.lookup/1) |> Enum.any?(&protected?/1)
    end
  end

  defp protected?(pid) do
    case Tree.lookup(pid) do
      {_, _, _, _, {_, _, children}} -> Enum.any?(children, &(alone(&1.pid) == :protected))
      _ -> alone(pid) == :protected
    end
  end

  @doc "Computes all floors anew, by the facts in the table and those read since, which replace them."
  @spec refresh(%{pid() => Tree.facts()}) :: :ok
  def refresh(facts) do
    rows = for {pid, _, _, _, old} = row <- Tree.all(), do: put_elem(row, 4, facts[pid] || old)
    groups = for {_, _, _, _, {_, _, [_ | _]}} = row <- rows, depends?(row), do: row
    floors = if groups == [], do: %{}, else: floors(groups, Map.new(rows, &{elem(&1, 0), &1}))
    for {pid, floor} <- floors, do: _ = raise_to(pid, floor)

    # Workers without a floor by now: the supervisor's facts have changed, or the worker has ended.
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
    do: auto != :never and Enum.any?(children, &(&1.significant or &1.fatal))

  defp floors(groups, rows) do
    subtrees = subtrees(rows)

    for {supervisor, _, _, _, facts} <- groups,
        child <- elem(facts, 2),
        is_pid(child.pid) and Workers.member?(child.pid),
        reduce: %{} do
      floors ->
        others = with_it(child, supervisor, facts, &rows[&1])
        floor = others |> Enum.map(&Map.get(subtrees, &1, 0)) |> Enum.reduce(0, &highest/2)
        Map.put(floors, child.pid, floor)
    end
  end

  # The workers and supervisors that go down with a killed child, the child included unless temporary.
  defp with_it(%{restart: :temporary} = child, supervisor, {_, auto, _}, lookup),
    do: if(ends?(child, auto), do: ended(supervisor, lookup), else: [])

  # The supervisor ends, with all other children.
  defp with_it(%{fatal: true}, supervisor, {_, _, children}, lookup),
    do: for(%{pid: pid} when is_pid(pid) <- children, do: pid) ++ ended(supervisor, lookup)

  defp with_it(child, _supervisor, {strategy, _, children}, _lookup),
    do:
      for({%{pid: pid}, _} <- together(strategy, child, running(children)), is_pid(pid), do: pid)

  defp running(children), do: Enum.map(children, &{&1, is_pid(&1.pid)})

  # A supervisor ended by a significant child. To the supervisor above, an ordinary child has ended with
  # the reason `shutdown`.
  defp ended(supervisor, lookup) do
    with {_, _, parent, _, _} when is_pid(parent) <- lookup.(supervisor),
         {_, _, _, _, {_, auto, children} = facts} <- lookup.(parent),
         %{} = child <- Enum.find(children, &(&1.pid == supervisor)) do
      cond do
        child.restart == :permanent -> [supervisor | with_it(child, parent, facts, lookup)]
        ends?(child, auto) -> [supervisor | ended(parent, lookup)]
        true -> [supervisor]
      end
    else
      _ -> [supervisor]
    end
  end

  # The child may be the last of the children whose end ends the supervisor.
  defp ends?(child, auto), do: child.significant and auto != :never

  # The highest rank in each supervisor's subtree, and the rank of each worker, both without floors.
  defp subtrees(rows) do
    ranks =
      :ets.select(Workers, [
        {{:"$1", :_, :_, :_, :_, :"$2", :_, :_, :_}, [], [{{:"$1", :"$2"}}]}
      ])

    Enum.reduce(ranks, %{}, fn {pid, supervisor}, subtrees ->
      case alone(pid) do
        nil -> subtrees
        rank -> subtrees |> Map.put(pid, rank) |> up(supervisor, rank, rows)
      end
    end)
  end

  defp up(subtrees, nil, _rank, _rows), do: subtrees

  defp up(subtrees, supervisor, rank, rows) do
    case subtrees do
      # As high already, and so are all supervisors above.
      %{^supervisor => known} when known == rank or known == :protected -> subtrees
      %{^supervisor => known} when is_integer(rank) and known > rank -> subtrees
      _ -> subtrees |> Map.put(supervisor, rank) |> up(above(supervisor, rows), rank, rows)
    end
  end

  defp above(supervisor, rows), do: with({_, _, parent, _, _} <- rows[supervisor], do: parent)

  defp raise_to(pid, floor) do
    with own when own != nil <- own(pid) do
      put(pid, own, floor, bond(pid))
    end
  end

  # The rank of a worker without the floor.
  defp alone(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, own, _, bond}] -> highest(own, bond)
      [] -> Workers.rank(pid)
    end
  end

  @doc "Returns the higher of two ranks: the worker with the higher rank goes later."
  @spec highest(Priority.rank(), Priority.rank()) :: Priority.rank()
  def highest(:protected, _), do: :protected
  def highest(_, :protected), do: :protected
  def highest(one, other), do: max(one, other)
end
