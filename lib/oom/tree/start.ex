defmodule OOM.Tree.Start do
  @moduledoc false
  # The declarations of a supervisor about itself and about a child, while either starts, and the options from
  # the nearest supervisor above. Called in the supervisor, which has no row in OOM.Tree until the start is
  # through.

  alias OOM.{Priority, Tree, Workers}

  @doc "Called in a starting supervisor, in `init/1`: declares the priority of all workers below."
  @spec declare(Priority.rank()) :: :ok
  def declare(rank) do
    Process.put({Tree, :declared}, rank)
    options = Keyword.put(here(), :priority, rank)
    _ = Tree.put_new(self(), :supervisor, parent(), options)
    own = [{:own, rank} | Tree.inheritable(options)]
    :ets.update_element(Tree, self(), {4, own})
    :ok
  end

  @doc "Called in a supervisor: returns the options the supervisor has declared."
  @spec declared() :: Tree.options()
  def declared do
    case Process.get({Tree, :declared}) do
      nil -> []
      rank -> [priority: rank]
    end
  end

  @doc """
  Called in a supervisor about to start a child. The child may be a supervisor, whatever the specification
  says, and a process below may ask for its options before the start is through. `rank` is the rank of a
  worker, which may register before the end of the start too; else `nil`.
  """
  @spec starting(Tree.options(), Priority.rank() | nil) :: true
  def starting(options, rank) do
    note = {options[:type], Tree.inheritable(options), others(options[:type])}
    since = if rank, do: {System.monotonic_time(:millisecond), rank}
    :ets.insert(Tree, {{:starting, self()}, note, since})
  end

  @doc "Returns the supervisors that began to start a worker before this time, and the rank of each worker."
  @spec being_started(integer()) :: [{pid(), Priority.rank()}]
  def being_started(before_ms) do
    row = {{:starting, :"$1"}, :_, {:"$2", :"$3"}}
    :ets.select(Tree, [{row, [{:"=<", :"$2", before_ms}], [{{:"$1", :"$3"}}]}])
  end

  # The older children, which the note is not about. An OOM.Supervisor registers all of its children.
  defp others(:supervisor) do
    if Tree.kind(self()) == :oom, do: [], else: :erlang.process_info(self(), :links) |> elem(1)
  end

  defp others(_worker), do: []

  @doc """
  Tells whether a child is in its start, while a supervisor other than an OOM.Supervisor waits for it. For a child that
  is suspended or waits. An OOM.Supervisor holds a child that is ended in its start.
  """
  @spec under_way?(pid(), pid() | nil) :: boolean()
  def under_way?(pid, supervisor) do
    with kind when kind not in [nil, :oom] <- supervisor && Tree.kind(supervisor),
         {_, stack} <- :erlang.process_info(pid, :current_stacktrace) do
      Enum.any?(stack, &match?({_module, :init_it, _arity, _place}, &1))
    else
      _ -> false
    end
  end

  @spec started() :: true
  def started, do: :ets.delete(Tree, {:starting, self()})

  @doc "Called in a starting supervisor: returns the options from the nearest supervisor above."
  @spec inherited() :: Tree.options()
  def inherited, do: inherited(Process.get(:"$ancestors", []), self())

  @doc "Called in a starting supervisor: returns the process that starts the supervisor."
  @spec parent() :: pid() | nil
  def parent, do: :"$ancestors" |> Process.get([nil]) |> hd() |> whereis()

  @doc "Returns the process of an ancestor, noted by proc_lib as a pid or a name."
  @spec whereis(pid() | atom()) :: pid() | port() | nil
  def whereis(name) when is_atom(name) and name != nil, do: Process.whereis(name)
  def whereis(pid_or_nil), do: pid_or_nil

  defp inherited([ancestor | above], below) do
    pid = whereis(ancestor)

    # A process with a row is older than the start under way.
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

  @doc "Returns the options of the child that `pid` is starting just now."
  @spec note(pid() | nil) :: Tree.options()
  def note(pid), do: pid |> noted() |> elem(1)

  @doc "Returns the note of `pid` on the child starting now: its type and options, and the older children."
  @spec noted(pid() | nil) :: {atom(), Tree.options(), [pid()]}
  def noted(pid) do
    case :ets.lookup(Tree, {:starting, pid}) do
      [{_, note, _}] -> note
      [] -> {nil, [], []}
    end
  end

  @doc "Called in a supervisor: returns the options for the children."
  @spec here() :: Tree.options()
  # A supervisor without a row is starting just now, and the process above has not heard of the supervisor.
  def here, do: Tree.row_options(self()) || inherited()
end
