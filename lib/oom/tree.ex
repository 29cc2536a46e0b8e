defmodule OOM.Tree do
  @moduledoc false
  # The supervisors below each OOM.Supervisor, and what holds for what is below them. A row is
  # written by an OOM.Supervisor about itself and its children, and by the walk that looks for the
  # rest in the background (OOM.Tree.Walk). Whoever kills reads it, and asks nobody.

  alias OOM.{InitialCall, Priority, Units, Workers}
  alias OOM.Tree.Census

  @typedoc """
    * `:oom` - an OOM.Supervisor: sees its children end, and holds them itself
    * `:supervisor` - OTP's or Elixir's: is told before its child is (OOM.Visit)
    * `:special` - a supervisor with a loop of its own, as ranch has; its children are temporary
    * `:unknown` - said to be a supervisor, and nobody has looked yet
    * `:unit` - dies and returns as a whole, and has a row in OOM.Workers
    * `:inside` - an OOM.Supervisor in a unit
    * `:aside` - as `:supervisor`, and not below an OOM.Supervisor: those of its children that have
      registered are killed with its consent, and nobody looks for the others
    * `:worker` - had children, so it was looked at, and is no supervisor
  """
  @type kind :: :oom | :supervisor | :special | :unknown | :unit | :inside | :aside | :worker
  @typedoc "The nearest declaration above."
  @type options :: keyword()
  @typedoc "Of a supervisor whose children depend on one another; see OOM.Visit.facts/2."
  @type facts :: OOM.Visit.facts() | nil
  @type row :: {pid(), kind(), parent :: pid() | nil, options(), facts()}

  @inherited [:priority, :backoff, :max_kills, :max_heap_size, :shed, :inside_unit]

  @spec put(pid(), kind(), pid() | nil, options()) :: true
  def put(pid, kind, parent, options),
    do: :ets.insert(__MODULE__, row(pid, kind, parent, options))

  @doc "Unless it is known already."
  @spec put_new(pid(), kind(), pid() | nil, options()) :: boolean()
  def put_new(pid, kind, parent, options),
    do: :ets.insert_new(__MODULE__, row(pid, kind, parent, options))

  defp row(pid, kind, parent, options),
    do: {pid, kind, parent, Keyword.take(options, @inherited), nil}

  @spec put_kind(pid(), kind()) :: boolean()
  def put_kind(pid, kind), do: :ets.update_element(__MODULE__, pid, {2, kind})

  @spec put_facts(pid(), facts()) :: boolean()
  def put_facts(pid, facts) do
    :ets.delete(__MODULE__, {:busy, pid})
    :ets.update_element(__MODULE__, pid, {5, facts})
  end

  @doc "It was asked for its facts and did not answer."
  @spec put_busy(pid()) :: true
  def put_busy(pid), do: :ets.insert(__MODULE__, {{:busy, pid}, []})

  @spec busy?(pid()) :: boolean()
  def busy?(pid), do: :ets.member(__MODULE__, {:busy, pid})

  @doc "All that did not answer when they were asked last."
  @spec all_busy() :: [pid()]
  def all_busy, do: :ets.select(__MODULE__, [{{{:busy, :"$1"}, :_}, [], [:"$1"]}])

  @spec lookup(pid()) :: row() | nil
  def lookup(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [row] -> row
      [] -> nil
    end
  rescue
    # The application is stopped.
    ArgumentError -> nil
  end

  @spec kind(pid() | nil) :: kind() | nil
  def kind(pid), do: element(pid, 2)

  # Without the facts, which may be of a thousand children.
  defp element(pid, position) do
    if :ets.member(__MODULE__, pid), do: :ets.lookup_element(__MODULE__, pid, position)
  rescue
    # The application is stopped, or it was forgotten just now.
    ArgumentError -> nil
  end

  @doc """
  Whether there are children of this supervisor that take others along; `:unknown` until it was asked.
  """
  @spec dependence(pid()) :: :some | :none | :unknown
  def dependence(pid) do
    facts = {{pid, :"$1", :_, :_, {:"$2", :"$3", :_}}, [], [{{:"$2", :"$3"}}]}

    case :ets.select(__MODULE__, [facts]) do
      [{strategy, auto}] when strategy in [:one_for_all, :rest_for_one] or auto != :never -> :some
      [_one_by_one] -> :none
      [] -> if asked?(pid), do: :none, else: :unknown
    end
  end

  defp asked?(pid),
    do: kind(pid) not in [:oom, :supervisor, :unknown] or element(pid, 5) != nil

  @doc "Whether it stands for what is below it: what it starts is not its own."
  @spec supervisor?(pid()) :: boolean()
  def supervisor?(pid), do: kind(pid) in [:oom, :supervisor, :special, :unknown]

  @doc "The options that hold for the children of this supervisor."
  @spec options(pid()) :: options()
  def options(pid), do: element(pid, 4) || []

  @doc "Whether the children of this supervisor come and go: it has no list of them that it starts."
  @spec dynamic?(pid()) :: boolean()
  def dynamic?(pid) do
    # Without the facts, which may be of a thousand children.
    dynamic = for facts <- [:dynamic, :tasks], do: {:"=:=", :"$2", facts}
    condition = List.to_tuple([:orelse, {:"=:=", :"$1", :special} | dynamic])
    :ets.select(__MODULE__, [{{pid, :"$1", :_, :_, :"$2"}, [condition], [true]}]) == [true]
  rescue
    # The application is stopped.
    ArgumentError -> false
  end

  @spec rank(options()) :: Priority.rank()
  def rank(options), do: Priority.rank!(Keyword.get(options, :priority, :normal))

  @doc """
  A worker has turned out to be a supervisor: its specification did not say so. What was declared for
  it holds for what is below it. `false` where it is in its place already.
  """
  @spec no_worker(pid()) :: boolean()
  def no_worker(pid) do
    with nil <- lookup(pid),
         {_, rank, _, _, _, supervisor, _, own, _} <- Workers.lookup(pid) do
      above = if supervisor, do: options(supervisor), else: []
      priority = [priority: Units.own(pid) || rank]
      put(pid, :supervisor, supervisor, above |> Keyword.merge(own) |> Keyword.merge(priority))
      Workers.delete(pid)
      OOM.Tree.Census.changed()
      true
    else
      _ -> false
    end
  end

  @doc "Called in a supervisor that starts, in its `init/1`: the priority of what will be below it."
  @spec declare(Priority.rank()) :: :ok
  def declare(rank) do
    Process.put({__MODULE__, :declared}, rank)
    options = Keyword.put(here(), :priority, rank)
    _ = put_new(self(), :supervisor, parent(), options)
    own = [{:own, rank} | Keyword.take(options, @inherited)]
    :ets.update_element(__MODULE__, self(), {4, own})
    :ok
  end

  @doc "Called in a supervisor: what it has declared."
  @spec declared() :: options()
  def declared do
    case Process.get({__MODULE__, :declared}) do
      nil -> []
      rank -> [priority: rank]
    end
  end

  @doc "All rows."
  @spec all() :: [row()]
  def all, do: :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$_"]}])

  @doc "Forgets those that have ended, while they started a child or not."
  @spec prune() :: :ok
  def prune do
    for pid <- :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$1"]}]),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, pid)

    for pid <- :ets.select(__MODULE__, [{{{:starting, :"$1"}, :_, :_}, [], [:"$1"]}]),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, {:starting, pid})

    for pid <- :ets.select(__MODULE__, [{{{:no_supervisor, :"$1"}}, [], [:"$1"]}]),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, {:no_supervisor, pid})

    for pid <- all_busy(), not Process.alive?(pid), do: :ets.delete(__MODULE__, {:busy, pid})
    :ok
  end

  @doc """
  Called in a supervisor that is about to start a child, which may be a supervisor, too, whether its
  specification says so or not: what is below it may ask what holds for it before the start is
  through. `rank` is that of a worker, which may be registered before that, too; else `nil`.
  """
  @spec starting(options(), Priority.rank() | nil) :: true
  def starting(options, rank) do
    note = {options[:type], Keyword.take(options, @inherited), others(options[:type])}
    since = if rank, do: {System.monotonic_time(:millisecond), rank}
    :ets.insert(__MODULE__, {{:starting, self()}, note, since})
  end

  @doc "Supervisors that have begun to start a worker before this time, and its rank."
  @spec being_started(integer()) :: [{pid(), Priority.rank()}]
  def being_started(before_ms) do
    row = {{:starting, :"$1"}, :_, {:"$2", :"$3"}}
    :ets.select(__MODULE__, [{row, [{:"=<", :"$2", before_ms}], [{{:"$1", :"$3"}}]}])
  end

  # Of whom this is not said, though nobody has told of them yet. An OOM.Supervisor tells of all.
  defp others(:supervisor) do
    if kind(self()) == :oom, do: [], else: :erlang.process_info(self(), :links) |> elem(1)
  end

  defp others(_worker), do: []

  @spec started() :: true
  def started, do: :ets.delete(__MODULE__, {:starting, self()})

  @doc "Called in a supervisor that starts: what holds for it, from the nearest one above it."
  @spec inherited() :: options()
  def inherited, do: inherited(Process.get(:"$ancestors", []), self())

  @doc "Called in a supervisor that starts: the process that starts it."
  @spec parent() :: pid() | nil
  def parent, do: :"$ancestors" |> Process.get([nil]) |> hd() |> whereis()

  defp whereis(name) when is_atom(name) and name != nil, do: Process.whereis(name)
  defp whereis(pid_or_nil), do: pid_or_nil

  defp inherited([ancestor | above], below) do
    pid = whereis(ancestor)

    # One that is known has been started before, whatever is being started now.
    starting = if lookup(below) == nil and not Workers.member?(below), do: note(pid), else: []

    case is_pid(pid) && lookup(pid) do
      {_, _, _, options, _} -> Keyword.merge(options, starting)
      _unknown -> Keyword.merge(inherited(above, pid || below), starting)
    end
  rescue
    ArgumentError -> []
  end

  defp inherited(_none, _below), do: []

  defp note(pid), do: pid |> noted() |> elem(1)

  defp noted(pid) do
    case :ets.lookup(__MODULE__, {:starting, pid}) do
      [{_, note, _}] -> note
      [] -> {nil, [], []}
    end
  end

  # Further up nobody looks.
  @generations 16

  @doc "Whether a process is below a unit, or one that is just being started; else below whom we know."
  @spec above(pid()) :: :unit | :known | :nobody
  def above(pid), do: above(parent(pid), pid, :unread, @generations)

  defp above(parent, pid, ancestors, generations) when parent != nil and generations > 0 do
    # The unit itself is a supervisor: no child of whoever is starting it just now is below it.
    starting = generations < @generations and lookup(pid) == nil and note(parent)[:inside_unit]

    case lookup(parent) do
      _ when starting -> :unit
      {_, _, _, options, _} -> if options[:inside_unit], do: :unit, else: :known
      nil when ancestors == :unread -> next(parent, beyond(parent, pid), generations - 1)
      nil -> next(parent, ancestors, generations - 1)
    end
  end

  defp above(_parent, _pid, _ancestors, _generations), do: :nobody

  # What proc_lib has noted costs nothing. Whoever else is asked for its parent answers when its turn
  # comes, and the caller waits for that.
  defp next(pid, [], generations), do: above(parent(pid), pid, [], generations)

  defp next(pid, [ancestor | beyond], generations) do
    case whereis(ancestor) do
      next when is_pid(next) and node(next) == node() -> above(next, pid, beyond, generations)
      _gone -> :nobody
    end
  end

  # Those beyond its parent, of the calling process: of no other they are known here.
  defp beyond(parent, pid) do
    with true <- pid == self(),
         [first | beyond] <- Process.get(:"$ancestors"),
         ^parent <- whereis(first) do
      beyond
    else
      _ -> []
    end
  end

  @doc """
  A worker that this process has started tells of itself. Where it is a supervisor that no walk has
  found yet, it has its place from now on: one that may be killed has a supervisor that is told, and
  of which it is asked who else would go. Once for all its children.
  """
  @spec met(pid() | nil) :: :ok
  def met(pid) do
    new? = pid != nil and kind(pid) == nil and not :ets.member(__MODULE__, {:no_supervisor, pid})
    _ = if new?, do: meet(pid)
    :ok
  end

  # It waits for its child to start, so it answers at once.
  defp meet(pid) do
    case InitialCall.of(pid) do
      {:supervisor, _, _} -> find(pid, @generations) || put_new(pid, :aside, parent(pid), [])
      _ -> :ets.insert(__MODULE__, {{:no_supervisor, pid}})
    end
  end

  # The options that hold below it, or nil.
  defp find(pid, generations) when pid != nil and generations > 0 do
    case lookup(pid) do
      {_, kind, _, options, _} when kind in [:oom, :supervisor, :special, :unknown] -> options
      nil -> find_new(pid, parent(pid), generations - 1)
      _in_a_unit_or_a_worker -> nil
    end
  end

  defp find(_pid, _generations), do: nil

  defp find_new(pid, parent, generations) do
    with options when options != nil <- find(parent, generations),
         {:supervisor, _, _} <- InitialCall.of(pid) do
      # What is said of a sibling that its parent starts just now is not said of it.
      {type, said, others} = noted(parent)
      its_own? = type == :supervisor and pid not in others
      options = if its_own?, do: Keyword.merge(options, said), else: options
      if put_new(pid, :supervisor, parent, options), do: Census.changed()
      # Somebody else may have been first, and have known more.
      options(pid)
    else
      _ -> nil
    end
  end

  @doc "Its supervisor has started it and knows what it said of it."
  @spec declared(pid(), pid(), options()) :: :ok
  def declared(pid, supervisor, options) do
    unless put_new(pid, :unknown, supervisor, options) do
      # An OOM.Supervisor has said so itself.
      if kind(pid) == :supervisor do
        own = for {:own, rank} <- options(pid), name <- [:own, :priority], do: {name, rank}
        options = options |> Keyword.take(@inherited) |> Keyword.merge(own)
        :ets.update_element(__MODULE__, pid, {4, options})
      end
    end

    Census.changed()
  end

  @doc "The process that has started this one, where it is known."
  @spec parent(pid()) :: pid() | nil
  def parent(pid) do
    case :erlang.process_info(pid, :parent) do
      {_, parent} when is_pid(parent) and node(parent) == node() -> parent
      _ -> nil
    end
  end

  @doc """
  Whether a supervisor is one of OTP's, and is to be told before its child is killed (OOM.Visit). One
  that nobody has looked at yet is looked at.
  """
  @spec consents?(pid() | nil) :: boolean()
  def consents?(nil), do: false

  def consents?(supervisor) do
    case kind(supervisor) do
      :unknown -> match?({:supervisor, _, _}, InitialCall.of_supervisor(supervisor))
      kind -> kind in [:supervisor, :aside]
    end
  end

  @doc "Called in a supervisor: what holds for its children."
  @spec here() :: options()
  # Where there is no row it is being started, and whoever does that has not heard of it yet.
  def here, do: element(self(), 4) || inherited()
end
