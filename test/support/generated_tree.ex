defmodule OOM.Test.GeneratedTree do
  @moduledoc false
  # Trees made from a seed, as data: OOM.Supervisors with workers, OOM.Supervisors and plain
  # supervisors below. And the same, started.
  #
  # A node is `{:worker, path, facts}` or `{:oom | :plain, path, facts, children}`; the path names
  # it in the whole tree, and is its id.

  alias OOM.Test.Worker

  @type facts :: map()
  @type path :: [pos_integer()]
  @type t :: {:worker, path(), facts()} | {:oom | :plain, path(), facts(), [t()]}

  # Well below what a test waits for, and above 0, so that a return is not a restart.
  @backoff [initial_ms: 1, max_ms: 5]

  @doc "A tree from the calling process's random numbers."
  @spec generate() :: t()
  def generate, do: supervisor(:oom, [], 0, nil)

  defp supervisor(kind, path, depth, priority) do
    strategy = Enum.random([:one_for_one, :one_for_one, :one_for_all, :rest_for_one])
    # What goes as one is worth one thing.
    priority = priority || if(strategy != :one_for_one, do: priority())
    count = Enum.random(1..5)
    children = for n <- 1..count, do: child(kind, path ++ [n], depth + 1, priority)
    {kind, path, %{strategy: strategy}, children}
  end

  defp child(parent, path, depth, priority) do
    case :rand.uniform(10) do
      n when n <= 2 and depth < 4 -> supervisor(:oom, path, depth, priority)
      3 when depth < 4 -> supervisor(:plain, path, depth, priority)
      _ -> {:worker, path, worker(parent, priority)}
    end
  end

  defp worker(parent, priority) do
    %{
      parent: parent,
      priority: priority || priority(),
      restart: Enum.random([:permanent, :permanent, :transient, :temporary]),
      shutdown: Enum.random([5_000, :infinity, :brutal_kill]),
      trap_exit: :rand.uniform(4) == 1
    }
  end

  defp priority, do: Enum.random([:low, :low, :normal, :high, 100, :protected])

  @doc "All workers, in start order."
  @spec workers(t()) :: [{path(), facts()}]
  def workers({:worker, path, facts}), do: [{path, facts}]
  def workers({_kind, _path, _facts, children}), do: Enum.flat_map(children, &workers/1)

  @doc "How many supervisors and workers there are."
  @spec size(t()) :: pos_integer()
  def size({:worker, _, _}), do: 1
  def size({_, _, _, children}), do: 1 + Enum.sum(Enum.map(children, &size/1))

  @doc """
  Starts it, linked to the caller. Each supervisor allows exactly as many restarts as `crashes`
  names workers of its own, by their paths; `init` is called in each
  worker, with its path and pid.
  """
  @spec start(t(), [path()], (path(), pid() -> term())) :: pid()
  def start(tree, crashes, init) do
    %{start: {module, function, args}} = spec(tree, crashes, init, self())
    {:ok, pid} = apply(module, function, args)
    pid
  end

  defp spec({:worker, path, facts}, _crashes, init, owner) do
    options = [
      id: path,
      owner: owner,
      restart: facts.restart,
      shutdown: facts.shutdown,
      trap_exit: facts.trap_exit,
      init: &init.(path, &1)
    ]

    if facts.parent == :oom,
      do: OOM.child_spec(Worker.child_spec(options), priority: facts.priority),
      else: Worker.child_spec(options)
  end

  defp spec({kind, path, facts, children}, crashes, init, owner) do
    specs = Enum.map(children, &spec(&1, crashes, init, owner))
    own = for {:worker, id, _} <- children, id in crashes, do: id
    restarts = Enum.count(crashes, &(&1 in own))
    flags = [strategy: facts.strategy, max_restarts: restarts, max_seconds: 1_000]

    {module, flags} =
      if kind == :oom,
        do: {OOM.Supervisor, flags ++ [oom: [backoff: @backoff]]},
        else: {Supervisor, flags}

    %{id: path, type: :supervisor, start: {module, :start_link, [specs, flags]}}
  end

  @doc "The children of each supervisor that should be there: `{path, [{id, type}]}`, as listed."
  @spec listing(t()) :: [{path(), [{path(), :worker | :supervisor}]}]
  def listing({:worker, _, _}), do: []

  def listing({_kind, path, _facts, children}) do
    own =
      for child <- Enum.reverse(children),
          do: {elem(child, 1), if(elem(child, 0) == :worker, do: :worker, else: :supervisor)}

    [{path, own} | Enum.flat_map(children, &listing/1)]
  end

  @doc "The same of a running tree, and the workers' pids by path; `nil` for one that is down."
  @spec look(pid(), path()) ::
          {[{path(), [{path(), :worker | :supervisor}]}], %{path() => pid() | nil}}
  def look(supervisor, path \\ []) do
    children = Supervisor.which_children(supervisor)
    own = {path, for({id, _, type, _} <- children, do: {id, type})}

    for {id, pid, type, _} <- Enum.reverse(children), reduce: {[own], %{}} do
      {lists, pids} ->
        case {type, pid} do
          {:supervisor, pid} when is_pid(pid) ->
            {below, more} = look(pid, id)
            {lists ++ below, Map.merge(pids, more)}

          {:worker, pid} when is_pid(pid) ->
            {lists, Map.put(pids, id, pid)}

          _ ->
            {lists, Map.put(pids, id, nil)}
        end
    end
  end
end
