defmodule OOM.Tree.Start do
  @moduledoc false
  # What a supervisor says of itself and of a child while one of them starts, and what holds for the supervisor, from
  # the nearest one above. Called in the supervisor, which has no row in OOM.Tree until its start is through.

  alias OOM.{Priority, Tree, Workers}

  @doc "Called in a supervisor that starts, in its `init/1`: the priority of what will be below it."
  @spec declare(Priority.rank()) :: :ok
  def declare(rank) do
    Process.put({Tree, :declared}, rank)
    options = Keyword.put(here(), :priority, rank)
    _ = Tree.put_new(self(), :supervisor, parent(), options)
    own = [{:own, rank} | Tree.inheritable(options)]
    :ets.update_element(Tree, self(), {4, own})
    :ok
  end

  @doc "Called in a supervisor: what it has declared."
  @spec declared() :: Tree.options()
  def declared do
    case Process.get({Tree, :declared}) do
      nil -> []
      rank -> [priority: rank]
    end
  end

  @doc """
  Called in a supervisor that is about to start a child, which may be a supervisor, too, whether its
  specification says so or not: what is below it may ask what holds for it before the start is
  through. `rank` is that of a worker, which may be registered before that, too; else `nil`.
  """
  @spec starting(Tree.options(), Priority.rank() | nil) :: true
  def starting(options, rank) do
    note = {options[:type], Tree.inheritable(options), others(options[:type])}
    since = if rank, do: {System.monotonic_time(:millisecond), rank}
    :ets.insert(Tree, {{:starting, self()}, note, since})
  end

  @doc "Supervisors that have begun to start a worker before this time, and its rank."
  @spec being_started(integer()) :: [{pid(), Priority.rank()}]
  def being_started(before_ms) do
    row = {{:starting, :"$1"}, :_, {:"$2", :"$3"}}
    :ets.select(Tree, [{row, [{:"=<", :"$2", before_ms}], [{{:"$1", :"$3"}}]}])
  end

  # Of whom this is not said, though nobody has told of them yet. An OOM.Supervisor tells of all.
  defp others(:supervisor) do
    if Tree.kind(self()) == :oom, do: [], else: :erlang.process_info(self(), :links) |> elem(1)
  end

  defp others(_worker), do: []

  @spec started() :: true
  def started, do: :ets.delete(Tree, {:starting, self()})

  @doc "Called in a supervisor that starts: what holds for it, from the nearest one above it."
  @spec inherited() :: Tree.options()
  def inherited, do: inherited(Process.get(:"$ancestors", []), self())

  @doc "Called in a supervisor that starts: the process that starts it."
  @spec parent() :: pid() | nil
  def parent, do: :"$ancestors" |> Process.get([nil]) |> hd() |> whereis()

  @doc "An ancestor as proc_lib has noted it: by its pid, or by its name."
  @spec whereis(pid() | atom()) :: pid() | port() | nil
  def whereis(name) when is_atom(name) and name != nil, do: Process.whereis(name)
  def whereis(pid_or_nil), do: pid_or_nil

  defp inherited([ancestor | above], below) do
    pid = whereis(ancestor)

    # One that is known has been started before, whatever is being started now.
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

  @doc "The options of the child that this process starts just now."
  @spec note(pid() | nil) :: Tree.options()
  def note(pid), do: pid |> noted() |> elem(1)

  @doc "What a process says of the child that it starts just now: the type, the options, and of whom it is not said."
  @spec noted(pid() | nil) :: {atom(), Tree.options(), [pid()]}
  def noted(pid) do
    case :ets.lookup(Tree, {:starting, pid}) do
      [{_, note, _}] -> note
      [] -> {nil, [], []}
    end
  end

  @doc "Called in a supervisor: what holds for its children."
  @spec here() :: Tree.options()
  # Where there is no row it is being started, and whoever does that has not heard of it yet.
  def here, do: Tree.row_options(self()) || inherited()
end
