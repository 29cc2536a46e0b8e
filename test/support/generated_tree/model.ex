defmodule OOM.Test.GeneratedTree.Model do
  @moduledoc false
  # Ranks and fates in a generated tree, by the documentation of OOM and OTP; pure, and
  # independent of the implementation.
  #
  # `gone` are children which must be absent: `:removed` with their specifications, or `:ended`
  # and still listed. The fate of the `unsure` depends on a race.

  alias OOM.Priority
  alias OOM.Test.GeneratedTree

  @enforce_keys [:index]
  defstruct [:index, gone: %{}, unsure: MapSet.new()]

  @type path :: GeneratedTree.path()
  @type t :: %__MODULE__{
          index: %{path() => GeneratedTree.t()},
          gone: %{path() => :removed | :ended},
          unsure: MapSet.t(path())
        }

  @static [:oom, :plain]
  @dynamic [:dynamic, :simple, :tasks]
  @ranks %{low: 250, normal: 500, high: 750}

  @spec new(GeneratedTree.t()) :: t()
  def new(tree),
    do: %__MODULE__{index: for(node <- GeneratedTree.all(tree), into: %{}, do: {node.path, node})}

  @doc "Returns the subjects of a kill or protection: workers and units, not the members of a unit."
  @spec subjects(t()) :: [path()]
  def subjects(model) do
    for {path, node} <- model.index,
        node.kind == :worker or node.unit,
        not Enum.any?(above(path), &model.index[&1].unit),
        do: path
  end

  @doc "Returns the rank of each living subject, by itself and by the processes going down with it."
  @spec ranks(t(), %{path() => term()}) :: %{path() => Priority.rank()}
  def ranks(model, alive) do
    own =
      for path <- subjects(model),
          is_map_key(alive, path),
          into: %{},
          do: {path, own(model, path)}

    for {path, rank} <- own, into: %{}, do: {path, worth(model, path, rank, own)}
  end

  @doc "Returns the rank a subject has by itself: the nearest declaration."
  @spec own(t(), path()) :: Priority.rank()
  def own(model, path) do
    node = model.index[path]

    said =
      Enum.find_value([node | Enum.map(above(path), &model.index[&1])], fn
        ^node -> node.declares || node.says
        above -> above.inner || above.says
      end)

    Map.get(@ranks, said || :normal, said)
  end

  defp worth(model, path, rank, own) do
    for root <- with_it(model, path), {other, more} <- own, below?(other, root), reduce: rank do
      rank -> highest(rank, more)
    end
  end

  # The roots of all processes going down with a killed one.
  defp with_it(model, path) do
    node = model.index[path]

    case model.index[parent(path)] do
      supervisor when supervisor.kind not in @static -> []
      _ when node.restart != :temporary -> siblings(model, path)
      supervisor -> if ends?(node, supervisor), do: all_below(model, path), else: []
    end
  end

  # Everything the end of a significant child takes along: its supervisor, and whatever goes with
  # the supervisor.
  defp all_below(model, path) do
    above = parent(path)
    supervisor = model.index[above]
    grandparent = above != [] && model.index[parent(above)]

    beyond =
      cond do
        above == [] or grandparent.kind not in @static -> []
        supervisor.restart == :permanent -> siblings(model, above)
        ends?(supervisor, grandparent) -> all_below(model, above)
        true -> []
      end

    [above | beyond]
  end

  defp ends?(node, supervisor), do: node.significant and supervisor.auto != :never

  # The child and its siblings by the strategy, in start order.
  defp siblings(model, path) do
    case model.index[parent(path)] do
      %{kind: kind} when kind not in @static -> [path]
      %{strategy: :one_for_one} -> [path]
      %{strategy: :one_for_all} = above -> paths(above)
      %{strategy: :rest_for_one} = above -> Enum.drop_while(paths(above), &(&1 != path))
    end
  end

  defp paths(node), do: Enum.map(node.children, & &1.path)

  @doc "Returns the roots of all that goes when these are killed for memory or crash."
  @spec taken(t(), [{path(), :memory | :crash}]) :: [path()]
  def taken(model, ended) do
    for effect <- effects(model, ended),
        path <- if(elem(effect, 0) == :reset, do: elem(effect, 1), else: [elem(effect, 1)]),
        do: path
  end

  @doc "Returns the model after these were killed for memory, or crashed, in any order."
  @spec fall(t(), [{path(), :memory | :crash}]) :: t()
  def fall(model, ended) do
    effects = effects(model, ended)
    # The highest last: a restarted subtree is whole, whatever happened inside.
    resets = for {:reset, roots, why} <- effects, root <- roots, do: {root, why}
    resets = Enum.sort_by(resets, fn {root, _} -> -length(root) end)

    model =
      for {gone, path} <- effects,
          gone in [:removed, :ended],
          reduce: model,
          do: (m -> gone(m, path, gone))

    model = Enum.reduce(resets, model, &reset/2)

    # A significant child which fell both by itself and with its siblings, or a supervisor which
    # ended both for its child and with its siblings.
    for {:shutdown, path, by} <- effects,
        {root, _} <- resets,
        by == root or (path == root and model.index[path].restart == :transient),
        reduce: model do
      model -> %{model | unsure: MapSet.put(model.unsure, path)}
    end
  end

  # The last significant child finds all its significant siblings ended.
  defp effects(model, ended) do
    temporary = for {path, _} <- ended, model.index[path].restart == :temporary, do: path
    then = Enum.reduce(temporary, model, &gone(&2, &1, :removed))
    Enum.flat_map(ended, &effects_of(then, &1))
  end

  defp effects_of(model, {path, why}) do
    node = model.index[path]
    supervisor = model.index[parent(path)]

    cond do
      node.restart != :temporary ->
        [{:reset, siblings(model, path), why}]

      supervisor.kind in @static and last?(model, node, supervisor) ->
        [{:removed, path}, {:shutdown, supervisor.path, path} | shutdown(model, supervisor.path)]

      true ->
        [{:removed, path}]
    end
  end

  defp last?(_model, node, supervisor) when not node.significant or supervisor.auto == :never,
    do: false

  defp last?(_model, _node, %{auto: :any_significant}), do: true

  defp last?(model, node, supervisor) do
    Enum.all?(
      supervisor.children,
      &(not &1.significant or &1 == node or is_map_key(model.gone, &1.path))
    )
  end

  # A supervisor ended because a significant child did.
  defp shutdown(model, path) do
    node = model.index[path]

    case node.restart do
      :permanent ->
        [{:reset, siblings(model, path), :memory}]

      _ ->
        above = model.index[parent(path)]

        # After the orderly end of a transient child, a supervisor of dynamic children forgets the child.
        forgets? = node.restart == :temporary or above.kind in @dynamic
        gone = if forgets?, do: :removed, else: :ended

        if above.kind in @static and last?(model, node, above),
          do: [{gone, path}, {:shutdown, above.path, path} | shutdown(model, above.path)],
          else: [{gone, path}]
    end
  end

  defp gone(model, path, gone), do: put_in(model.gone[path], gone)

  # Down and started again, with all children except the temporary.
  defp reset({root, why}, model) do
    case {model.index[root].restart, model.gone[root]} do
      {:temporary, _} -> gone(model, root, :removed)
      # Ended before, so not part of the hold; a strategy starts the child all the same.
      {_, :ended} when why == :memory -> model
      _ -> %{model | gone: Map.reject(model.gone, fn {path, _} -> below?(path, root) end)}
    end
  end

  @doc "Returns all paths expected to be there when nothing is held."
  @spec expected(t()) :: [path()]
  def expected(model) do
    for {path, _} <- model.index,
        not Enum.any?([path | above(path)], &is_map_key(model.gone, &1)),
        sure?(model, path),
        do: path
  end

  @doc "Returns the expected children of a static supervisor, in start order."
  @spec listing(t(), path()) :: [path()]
  def listing(model, path),
    do: Enum.reject(paths(model.index[path]), &(model.gone[&1] == :removed))

  @spec sure?(t(), path()) :: boolean()
  def sure?(model, path), do: not Enum.any?([path | above(path)], &(&1 in model.unsure))

  @doc "Returns the kills after which the path is given up; `nil` where nothing is said."
  @spec max_kills(t(), path()) :: pos_integer() | nil
  def max_kills(model, path),
    do: Enum.find_value([path | above(path)], &model.index[&1].max_kills)

  @spec below?(path(), path()) :: boolean()
  def below?(path, root), do: List.starts_with?(path, root)

  @spec highest(Priority.rank(), Priority.rank()) :: Priority.rank()
  # An atom is greater than any number.
  def highest(one, other), do: max(one, other)

  @spec lowest(Priority.rank(), Priority.rank()) :: Priority.rank()
  def lowest(one, other), do: min(one, other)

  @spec parent(path()) :: path()
  def parent(path), do: Enum.drop(path, -1)

  # The nearest first.
  defp above([]), do: []
  defp above(path), do: [parent(path) | above(parent(path))]
end
