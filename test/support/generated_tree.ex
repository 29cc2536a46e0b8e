defmodule OOM.Test.GeneratedTree do
  @moduledoc false
  # Trees made from the calling process's random numbers, as data: an OOM.Supervisor, below it
  # every supervisor of OTP and Elixir, with priorities at any level.
  # OOM.Test.GeneratedTree.Running starts a tree, OOM.Test.GeneratedTree.Model predicts its fate.
  #
  # A node is a map. The path names a node in the whole tree, and is the child id where the
  # supervisor has ids. `says` is the priority of the OOM.child_spec, `inner` the priority of an
  # OOM.Supervisor, `declares` the priority a worker sets in its init.

  @type path :: [pos_integer()]
  @type kind :: :worker | :oom | :plain | :dynamic | :simple | :tasks | :partition
  @type t :: %{
          kind: kind(),
          path: path(),
          restart: :permanent | :transient | :temporary,
          significant: boolean(),
          says: OOM.priority() | nil,
          declares: OOM.priority() | nil,
          inner: OOM.priority() | nil,
          max_kills: pos_integer() | nil,
          unit: boolean(),
          strategy: Supervisor.strategy(),
          auto: :never | :any_significant | :all_significant,
          shutdown: timeout() | :brutal_kill,
          trap_exit: boolean(),
          slow_ms: non_neg_integer(),
          children: [t()]
        }

  @deepest 5

  @spec generate() :: t()
  def generate do
    count = Enum.random(4..7)
    children = for n <- 1..count, do: child(:static, [n], :never)
    %{node(:oom, []) | children: children}
  end

  defp node(kind, path) do
    %{
      kind: kind,
      path: path,
      restart: :permanent,
      significant: false,
      says: nil,
      declares: nil,
      inner: nil,
      max_kills: nil,
      unit: false,
      strategy: :one_for_one,
      auto: :never,
      shutdown: if(kind == :worker, do: 5_000, else: :infinity),
      trap_exit: false,
      slow_ms: 0,
      children: []
    }
  end

  # A child within the rules of its supervisor: a :static supervisor allows everything, the rest
  # are particular.
  defp child(parent, path, auto) do
    kind =
      if parent in [:static, :dynamic] and :rand.uniform(20) > 5 + 3 * length(path) and
           length(path) < @deepest,
         do: Enum.random(kinds(length(path))),
         else: :worker

    kind |> node(path) |> said(parent) |> filled() |> lasting(auto)
  end

  # Supervisors with subtrees are more likely further up.
  defp kinds(1), do: [:oom, :oom, :plain, :plain, :plain, :dynamic, :partition]
  defp kinds(_), do: [:oom, :plain, :plain, :dynamic, :simple, :tasks, :partition]

  defp said(node, parent) do
    %{
      node
      | says: if(parent in [:static, :dynamic], do: one_in(3, priority())),
        max_kills: if(parent in [:static, :dynamic], do: one_in(6, Enum.random(1..3))),
        unit: node.kind not in [:worker, :partition] and parent != :partition and chance(6)
    }
  end

  defp filled(%{kind: :worker} = node) do
    trap? = chance(4)

    %{
      node
      | declares: one_in(6, priority()),
        shutdown: Enum.random([5_000, :infinity, :brutal_kill]),
        trap_exit: trap?,
        slow_ms: if(trap? and chance(2), do: Enum.random([1, 10, 60]), else: 0)
    }
  end

  defp filled(%{kind: kind, path: path} = node) when kind in [:oom, :plain] do
    auto = one_in(3, Enum.random([:any_significant, :all_significant])) || :never
    node = %{node | strategy: strategy(), auto: auto, inner: inner(kind)}
    %{node | children: for(n <- 1..Enum.random(1..4), do: child(:static, path ++ [n], auto))}
  end

  defp filled(%{kind: :dynamic, path: path} = node),
    do: %{
      node
      | children: for(n <- 1..Enum.random(1..4), do: child(:dynamic, path ++ [n], :never))
    }

  # Children come from one template, and differ only in their own declarations.
  defp filled(%{kind: :partition, path: path} = node) do
    kind = Enum.random([:worker, :dynamic])

    %{
      node
      | children:
          for n <- 1..2 do
            %{(kind |> node(path ++ [n]) |> filled()) | shutdown: 5_000, max_kills: nil}
          end
    }
  end

  defp filled(%{kind: kind, path: path} = node) when kind in [:simple, :tasks] do
    restart = restart()

    %{
      node
      | children:
          for n <- 1..Enum.random(1..4) do
            %{child(kind, path ++ [n], :never) | restart: restart, shutdown: 5_000}
          end
    }
  end

  defp lasting(node, :never),
    do: %{node | restart: if(node.kind == :worker, do: restart(), else: restart_of_supervisor())}

  # Where significant children are allowed, some are significant.
  defp lasting(node, _auto) do
    restart = Enum.random([:permanent, :transient, :temporary, :temporary])
    %{node | restart: restart, significant: restart != :permanent and not chance(3)}
  end

  defp restart, do: Enum.random([:permanent, :permanent, :permanent, :transient, :temporary])

  defp restart_of_supervisor,
    do: Enum.random([:permanent, :permanent, :permanent, :permanent, :transient, :temporary])

  defp strategy, do: Enum.random([:one_for_one, :one_for_one, :one_for_all, :rest_for_one])
  defp inner(:oom), do: one_in(4, priority())
  defp inner(_plain), do: nil

  defp priority, do: Enum.random([:low, :low, :low, :normal, :normal, :high, 100, :protected])
  defp one_in(n, value), do: if(chance(n), do: value)
  defp chance(n), do: :rand.uniform(n) == 1

  @doc "Returns the node and all nodes below."
  @spec all(t()) :: [t()]
  def all(node), do: [node | Enum.flat_map(node.children, &all/1)]

  @doc "Shows a node per line, with deviations from the defaults."
  @spec show(t()) :: String.t()
  def show(tree) do
    plain = node(tree.kind, [])

    Enum.map_join(all(tree), "\n", fn node ->
      facts =
        for {key, value} <- Enum.sort(node),
            key not in [:kind, :path, :children, :shutdown],
            value != plain[key] or key == :restart,
            do: "#{key}: #{inspect(value)}"

      indent = String.duplicate("  ", length(node.path))

      "#{indent}#{inspect(node.path, charlists: :as_lists)} #{node.kind} #{Enum.join(facts, ", ")}"
    end)
  end
end
