defmodule OOM.Test.GeneratedTree.Running do
  @moduledoc false
  # Starts a generated tree, and looks at its processes.

  alias OOM.Test.GeneratedTree
  alias OOM.Test.GeneratedTree.{Births, Leaf}

  # Well below the waits of a test, and above 0, so a return is not a restart.
  @backoff [initial_ms: 1, max_ms: 5]

  @type t :: %{
          pid: pid(),
          tree: GeneratedTree.t(),
          index: %{GeneratedTree.path() => GeneratedTree.t()},
          births: Births.t()
        }
  @type seen :: %{
          pids: %{GeneratedTree.path() => pid()},
          # of supervisors with ids, in start order
          lists: %{GeneratedTree.path() => [GeneratedTree.path()]},
          twice: [GeneratedTree.path()]
        }

  @doc "Starts a tree, linked to the caller. Each supervisor allows `restarts` restarts, or none."
  @spec start(GeneratedTree.t(), %{GeneratedTree.path() => pos_integer()}) :: t()
  def start(tree, restarts) do
    births = Births.new()
    {:ok, pid} = start_node(tree, {births, restarts})
    index = for node <- GeneratedTree.all(tree), into: %{}, do: {node.path, node}
    %{pid: pid, tree: tree, index: index, births: births}
  end

  @doc false
  # The start function in every node's child specification.
  @spec start_node(GeneratedTree.t(), term()) :: Supervisor.on_start()
  def start_node(%{kind: :worker} = node, {births, _}), do: Leaf.start_link(node, births)

  def start_node(node, {births, _} = context) do
    with {:ok, pid} <- start_supervisor(node, context) do
      Births.note(births, node.path, pid)
      {:ok, pid}
    end
  end

  # A supervisor without static children gets its children at each start.
  defp start_supervisor(%{kind: :dynamic} = node, context) do
    {:ok, pid} =
      DynamicSupervisor.start_link([strategy: :one_for_one] ++ intensity(node, context))

    populate(pid, node, &DynamicSupervisor.start_child(pid, spec(&1, context)))
  end

  defp start_supervisor(%{kind: :tasks} = node, {births, _} = context) do
    {:ok, pid} = Task.Supervisor.start_link(intensity(node, context))

    populate(
      pid,
      node,
      &Task.Supervisor.start_child(pid, Leaf, :task, [&1, births], restart: &1.restart)
    )
  end

  defp start_supervisor(%{kind: :simple, children: [first | _]} = node, {births, _} = context) do
    template = %{
      id: :template,
      start: {Leaf, :start_link, []},
      restart: first.restart,
      shutdown: first.shutdown
    }

    {:ok, pid} = otp(node, [template], :simple_one_for_one, intensity(node, context))
    populate(pid, node, &:supervisor.start_child(pid, [&1, births]))
  end

  defp start_supervisor(%{kind: :partition, children: [first | _] = children} = node, context) do
    spec = %{spec(first, context) | id: :partition, start: {__MODULE__, :start_node, []}}

    PartitionSupervisor.start_link(
      [
        # The partitions of the last tree may still be ending.
        name:
          :"partitions_#{Enum.join(node.path, "_")}_#{:erlang.phash2(elem(context, 0), 1_000)}",
        partitions: length(children),
        child_spec: spec,
        with_arguments: fn [], n -> [Enum.at(children, n), context] end
      ] ++ one_more(node, context)
    )
  end

  defp start_supervisor(%{kind: :plain} = node, context),
    do:
      node
      |> otp(Enum.map(node.children, &spec(&1, context)), node.strategy, one_more(node, context))

  defp start_supervisor(%{kind: :oom} = node, context) do
    oom = if node.path == [], do: [backoff: @backoff], else: []
    oom = if node.inner, do: [priority: node.inner] ++ oom, else: oom

    OOM.Supervisor.start_link(
      Enum.map(node.children, &spec(&1, context)),
      [strategy: node.strategy, auto_shutdown: node.auto, oom: oom] ++ one_more(node, context)
    )
  end

  # Elixir 1.14 passes no :auto_shutdown on.
  defp otp(node, specs, strategy, max_restarts: intensity, max_seconds: period) do
    flags = %{
      strategy: strategy,
      intensity: intensity,
      period: period,
      auto_shutdown: node.auto
    }

    :supervisor.start_link(OOM.Test.Template, {flags, specs})
  end

  defp intensity(node, {_, restarts}),
    do: [max_restarts: Map.get(restarts, node.path, 0), max_seconds: 1_000]

  # With no restart allowed at all, a kill would end the supervisor. The scenario counts the restarts.
  defp one_more(node, context),
    do: node |> intensity(context) |> Keyword.update!(:max_restarts, &(&1 + 1))

  # A kill during the start of the children means a failed start.
  defp populate(pid, node, start) do
    Enum.reduce_while(node.children, {:ok, pid}, fn child, ok ->
      case start.(child) do
        {:ok, _} ->
          {:cont, ok}

        error ->
          Process.unlink(pid)
          Process.exit(pid, :kill)
          {:halt, error}
      end
    end)
  end

  defp spec(node, context) do
    ours =
      Enum.reject(
        [priority: node.says, max_kills: node.max_kills, unit: node.unit || nil],
        fn {_, value} -> value == nil end
      )

    spec = %{
      id: node.path,
      start: {__MODULE__, :start_node, [node, context]},
      restart: node.restart,
      significant: node.significant,
      shutdown: node.shutdown,
      type: if(node.kind == :worker, do: :worker, else: :supervisor)
    }

    if ours == [], do: spec, else: OOM.child_spec(spec, ours)
  end

  @doc "Returns the running processes; `nil` while the tree is changing."
  @spec look(t()) :: seen() | nil
  def look(running) do
    look(running.tree, running.pid, running, %{pids: %{}, lists: %{}, twice: []})
  catch
    :exit, _ -> nil
    :throw, :unknown -> nil
  end

  defp look(node, pid, running, seen) do
    children =
      for {id, child, _, _} <- Enum.reverse(:supervisor.which_children(pid)),
          do: {path(node, id, child, running), child}

    seen = put_in(seen.pids[node.path], pid)
    seen = put_in(seen.lists[node.path], Enum.map(children, &elem(&1, 0)))

    # A dead child its supervisor has not noticed yet does not count.
    for {path, child} when is_pid(child) <- children, Process.alive?(child), reduce: seen do
      %{pids: pids} = seen when is_map_key(pids, path) ->
        %{seen | twice: [path | seen.twice]}

      seen ->
        below = running.index[path]

        if below.kind == :worker,
          do: put_in(seen.pids[path], child),
          else: look(below, child, running, seen)
    end
  end

  defp path(%{kind: kind}, _id, child, running) when kind in [:dynamic, :simple, :tasks],
    do: (is_pid(child) && Births.path(running.births, child)) || throw(:unknown)

  defp path(%{kind: :partition, path: path}, id, _child, _running), do: path ++ [id + 1]
  defp path(_static, id, _child, _running), do: id

  @doc "Returns the held children, with all that is down with them: the highest paths, and the hold of each."
  @spec held(t()) :: [{GeneratedTree.path(), OOM.Held.t()}]
  def held(running) do
    for held <- OOM.held(),
        above = Births.path(running.births, held.supervisor),
        id <- held.ids,
        path = path(running.index[above], id, id, running),
        do: {path, held}
  catch
    :throw, :unknown -> held(running)
  end

  @doc "Returns the number of restarts a supervisor remembers."
  @spec restarts(pid()) :: non_neg_integer()
  def restarts(supervisor) do
    case :sys.get_state(supervisor) do
      %DynamicSupervisor{restarts: restarts} -> length(restarts)
      state -> length(elem(state, 7))
    end
  end
end
