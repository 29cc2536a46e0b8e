defmodule OOM.Tree.Start do
  @moduledoc false
  # What a supervisor says of itself and of a child while one of them starts, and what holds for the supervisor, from
  # the nearest one above. Called in the supervisor, which has no row in OOM.Tree until its start is through.

  alias OOM.{Priority, Tree, Workers}

  @doc "Called in a supervisor that starts, in `init/1`: the priority of all workers below."
  @spec declare(Priority.rank()) :: :ok
  def declare(rank) do
    Process.put({Tree, :declared}, rank)
    options = Keyword.put(here(), :priority, rank)
    _ = Tree.put_new(self(), :supervisor, parent(), options)
    own = [{:own, rank} | Tree.inheritable(options)]
    :ets.update_element(Tree, self(), {4, own})
    :ok
  end

  @doc "Called in a supervisor: what the supervisor has declared."
  @spec declared() :: Tree.options()
  def declared do
    case Process.get({Tree, :declared}) do
      nil -> []
      rank -> [priority: rank]
    end
  end

  @doc """
  Called in a supervisor that is about to start a child. The child may be a supervisor, whatever the specification
  says, and a process below the child may ask for its options before the start is through. `rank` is the rank of
  a worker, which may be registered before that, too; else `nil`.
  """
  @spec starting(Tree.options(), Priority.rank() | nil) :: true
  def starting(options, rank) do
    note = {options[:type], Tree.inheritable(options), others(options[:type])}
    since = if rank, do: {System.monotonic_time(:millisecond), rank}
    :ets.insert(Tree, {{:starting, self()}, note, since})
  end

  @doc "Supervisors that have begun to start a worker before this time, and the rank of that worker."
  @spec being_started(integer()) :: [{pid(), Priority.rank()}]
  def being_started(before_ms) do
    row = {{:starting, :"$1"}, :_, {:"$2", :"$3"}}
    :ets.select(Tree, [{row, [{:"=<", :"$2", before_ms}], [{{:"$1", :"$3"}}]}])
  end

  # The children that were there before, of which the note says nothing. An OOM.Supervisor tells of all children.
  defp others(:supervisor) do
    if Tree.kind(self()) == :oom, do: [], else: :erlang.process_info(self(), :links) |> elem(1)
  end

  defp others(_worker), do: []

  @spec started() :: true
  def started, do: :ets.delete(Tree, {:starting, self()})

  @doc "Called in a supervisor that starts: what holds for the supervisor, from the nearest supervisor above."
  @spec inherited() :: Tree.options()
  def inherited, do: inherited(Process.get(:"$ancestors", []), self())

  @doc "Called in a supervisor that starts: the process that starts the supervisor."
  @spec parent() :: pid() | nil
  def parent, do: :"$ancestors" |> Process.get([nil]) |> hd() |> whereis()

  @doc "The process of an ancestor, which proc_lib notes by pid or by name."
  @spec whereis(pid() | atom()) :: pid() | port() | nil
  def whereis(name) when is_atom(name) and name != nil, do: Process.whereis(name)
  def whereis(pid_or_nil), do: pid_or_nil

  defp inherited([ancestor | above], below) do
    pid = whereis(ancestor)

    # A process that is known was started before, whatever starts now.
    starting =
      if Tree.lookup(below) == nil and not Workers.member?(below), do: note(pid), else: []

    case is_pid(pid) && Tree.lookup(pid) do
      {_, _, _, options, _} -> Keyword.merge(options, starting)
      _unknown -> Keyword.merge(inherited(above, pid || below), starting)
    end
  rescue
    ArgumentError -> []
  end

  defp inherited(_none, _below), do: []

  @doc "The options of the child that `pid` starts just now."
  @spec note(pid() | nil) :: Tree.options()
  def note(pid), do: pid |> noted() |> elem(1)

  @doc "What a process says of the child that starts just now: type, options, and the older children, not meant."
  @spec noted(pid() | nil) :: {atom(), Tree.options(), [pid()]}
  def noted(pid) do
    case :ets.lookup(Tree, {:starting, pid}) do
      [{_, note, _}] -> note
      [] -> {nil, [], []}
    end
  end

  @doc "Called in a supervisor: what holds for the children."
  @spec here() :: Tree.options()
  # A supervisor without a row starts just now, and the process above has not heard of the supervisor yet.
  def here, do: Tree.row_options(self()) || inherited()
end
