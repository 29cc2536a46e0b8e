defmodule OOM.Units do
  @moduledoc false
  # Who would go down together, and what that makes of their ranks: a child that takes others along
  # (`:one_for_all`, `:rest_for_one`) is worth as much as the most important of them, and cannot be
  # killed where one of them is protected. A temporary significant child, whose end would end its
  # supervisor, goes last: one that is held ends nothing.
  #
  # The ranks the guard goes by are set in the background, after each walk. A row here keeps what a
  # worker is worth by itself beside its floor; and before a kill it is asked again whether one of
  # the others is protected by now.

  alias OOM.{Priority, Tree, Visit, Workers}
  alias OOM.Tree.Census

  @last 1000

  @doc "A worker declared its own rank: what it counts for with its floor."
  @spec declared(pid(), Priority.rank()) :: Priority.rank()
  def declared(pid, rank) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, floor}] ->
        :ets.update_element(__MODULE__, pid, {2, rank})
        highest(rank, floor)

      [] ->
        rank
    end
  end

  @doc """
  One that has just been started below a strategy that takes others along: until somebody has looked
  with whom it goes, it goes last.
  """
  @spec started(pid(), Priority.rank()) :: Priority.rank()
  def started(pid, rank) do
    :ets.insert(__MODULE__, {pid, rank, @last})
    Census.changed()
    highest(rank, @last)
  end

  @doc "The rank it has by itself."
  @spec own(pid()) :: Priority.rank() | nil
  def own(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, rank, _}] -> rank
      [] -> Workers.rank(pid)
    end
  end

  @doc "Whether one that would go down with this child of its supervisor is protected."
  @spec protected?(pid() | nil, pid()) :: boolean()
  def protected?(nil, _pid), do: false

  # Asked by the guard of each victim: of most, all there is to know is the strategy.
  def protected?(supervisor, pid) do
    with true <- Tree.together?(supervisor),
         {_, _, _, _, {_, _, _} = facts} <- Tree.lookup(supervisor) do
      Enum.any?(with_it(facts, pid), &(own(&1.pid) == :protected))
    else
      _ -> false
    end
  end

  @doc "Sets all floors anew."
  @spec refresh() :: :ok
  def refresh do
    groups = for {_, _, _, _, {_, _, [_ | _]}} = row <- Tree.all(), depends?(row), do: row
    floors = if groups == [], do: %{}, else: floors(groups, subtrees())
    for {pid, floor} <- floors, do: _ = raise_to(pid, floor)

    # Those whose supervisor changed, and those that are gone.
    for {pid, own, _} <- :ets.tab2list(__MODULE__), not is_map_key(floors, pid) do
      :ets.delete(__MODULE__, pid)
      Workers.rerank(pid, own)
    end

    :ok
  end

  defp depends?({_, _, _, _, {strategy, _, _}}) when strategy in [:one_for_all, :rest_for_one],
    do: true

  defp depends?({_, _, _, _, {_, auto, children}}),
    do: auto != :never and Enum.any?(children, & &1.significant)

  defp floors(groups, subtrees) do
    for {_, _, _, _, {_, auto, _} = facts} <- groups,
        child <- elem(facts, 2),
        is_pid(child.pid) and Workers.member?(child.pid),
        reduce: %{} do
      floors -> Map.put(floors, child.pid, floor(child, auto, facts, subtrees))
    end
  end

  defp floor(child, auto, facts, subtrees) do
    last = if ends_all?(child, auto), do: @last, else: 0
    others = if ends_all?(child, auto), do: elem(facts, 2), else: with_it(facts, child.pid)

    others
    |> Enum.map(&Map.get(subtrees, &1.pid, 0))
    |> Enum.reduce(last, &highest/2)
  end

  defp ends_all?(child, auto),
    do: child.significant and child.restart == :temporary and auto != :never

  defp with_it({strategy, _, children}, pid) do
    case Enum.find(children, &(&1.pid == pid)) do
      nil ->
        []

      %{id: id} ->
        ids = for {id, _} <- Visit.unit(strategy, id, Enum.map(children, &{&1.id, true})), do: id
        Enum.filter(children, &(is_pid(&1.pid) and &1.id in ids))
    end
  end

  # The highest own rank in what is below each supervisor, and of each worker.
  defp subtrees do
    parents = for {pid, _, parent, _, _} <- Tree.all(), into: %{}, do: {pid, parent}

    ranks =
      :ets.select(Workers, [
        {{:"$1", :_, :_, :_, :_, :"$2", :_, :_, :_}, [], [{{:"$1", :"$2"}}]}
      ])

    Enum.reduce(ranks, %{}, fn {pid, supervisor}, subtrees ->
      case own(pid) do
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
      :ets.insert(__MODULE__, {pid, own, floor})
      Workers.rerank(pid, highest(own, floor))
    end
  end

  @doc "Of two ranks the one that goes later."
  @spec highest(Priority.rank(), Priority.rank()) :: Priority.rank()
  def highest(:protected, _), do: :protected
  def highest(_, :protected), do: :protected
  def highest(one, other), do: max(one, other)
end
