defmodule OOM.Tree do
  @moduledoc false
  # The supervisors below each OOM.Supervisor, and the options for their children. An OOM.Supervisor writes
  # the rows about itself and its children; the walk in the background (OOM.Tree.Walk) writes the rest.
  # The killer reads the table without asking any process.

  alias OOM.{InitialCall, Priority, Units, Workers}
  alias OOM.Tree.Census

  @typedoc """
    * `:oom` - an OOM.Supervisor: sees its children end, and holds them itself
    * `:supervisor` - OTP's or Elixir's: is told before a child is killed (OOM.Visit)
    * `:special` - a supervisor with a loop of its own, as ranch has; the children are temporary
    * `:unknown` - declared as a supervisor, and not looked at yet
    * `:unit` - dies and returns as a whole, and has a row in OOM.Workers
    * `:inside` - an OOM.Supervisor in a unit
    * `:aside` - as `:supervisor`, but not below an OOM.Supervisor: registered children are killed with
      the supervisor's consent, and no walk looks for the rest
    * `:worker` - was looked at because of its children, and is no supervisor
  """
  @type kind :: :oom | :supervisor | :special | :unknown | :unit | :inside | :aside | :worker
  @typedoc "The options of the nearest declaration above."
  @type options :: keyword()
  @typedoc "The facts of a supervisor with dependent children; see OOM.Visit.facts/2."
  @type facts :: OOM.Visit.facts() | nil
  @type row :: {pid(), kind(), parent :: pid() | nil, options(), facts()}

  @inherited [:priority, :backoff, :max_kills, :max_heap_size, :shed, :inside_unit] ++
               [:priorities, :exit_reason]

  # The facts of supervisors whose children come and go; a `:special` supervisor has no facts.
  @dynamic [:dynamic, :tasks]

  @spec put(pid(), kind(), pid() | nil, options()) :: true
  def put(pid, kind, parent, options),
    do: :ets.insert(__MODULE__, row(pid, kind, parent, options))

  @doc "Adds a row unless there is one; tells whether the row was added."
  @spec put_new(pid(), kind(), pid() | nil, options()) :: boolean()
  def put_new(pid, kind, parent, options),
    do: :ets.insert_new(__MODULE__, row(pid, kind, parent, options))

  defp row(pid, kind, parent, options),
    do: {pid, kind, parent, inheritable(options), nil}

  @spec put_kind(pid(), kind()) :: boolean()
  def put_kind(pid, kind), do: :ets.update_element(__MODULE__, pid, {2, kind})

  @spec put_facts(pid(), facts()) :: boolean()
  def put_facts(pid, facts) do
    :ets.delete(__MODULE__, {:busy, pid})
    :ets.update_element(__MODULE__, pid, {5, facts})
  end

  @doc "Notes that a supervisor was asked for its facts and did not answer."
  @spec put_busy(pid()) :: true
  def put_busy(pid), do: :ets.insert(__MODULE__, {{:busy, pid}, []})

  @spec busy?(pid()) :: boolean()
  def busy?(pid), do: :ets.member(__MODULE__, {:busy, pid})

  @doc "Returns all supervisors that did not answer when last asked."
  @spec all_busy() :: [pid()]
  def all_busy, do: :ets.select(__MODULE__, [{{{:busy, :"$1"}, :_}, [], [:"$1"]}])

  @doc """
  Notes a process of this module that a worker has started. Returns `pid` where the worker has no other such
  process, the other process where the worker had one so far, and `:pool` where the worker has had several.
  """
  @spec pooled(pid(), module(), pid()) :: pid() | :pool
  def pooled(worker, module, pid) do
    key = {:pool, worker, module}

    case :ets.lookup(__MODULE__, key) do
      [{_, :pool}] ->
        :pool

      [{_, first}] when first != pid ->
        alive? = Process.alive?(first)
        :ets.insert(__MODULE__, {key, if(alive?, do: :pool, else: pid)})
        if alive?, do: first, else: pid

      _none_or_pid ->
        :ets.insert(__MODULE__, {key, pid})
        pid
    end
  end

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

  # Reads no facts, which may cover a thousand children.
  defp element(pid, position) do
    if :ets.member(__MODULE__, pid), do: :ets.lookup_element(__MODULE__, pid, position)
  rescue
    # The application is stopped, or the row was just deleted.
    ArgumentError -> nil
  end

  @doc """
  Tells whether any child of this supervisor takes siblings down; `:unknown` until the supervisor was asked.
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

  @doc "Tells whether a process is a supervisor whose children count as separate workers."
  @spec supervisor?(pid()) :: boolean()
  def supervisor?(pid), do: kind(pid) in [:oom, :supervisor, :special, :unknown]

  @doc "Returns the options for the children of this supervisor."
  @spec options(pid()) :: options()
  def options(pid), do: row_options(pid) || []

  @doc "Returns the same, or `nil` without a row."
  @spec row_options(pid()) :: options() | nil
  def row_options(pid), do: element(pid, 4)

  @doc "Returns the options that children inherit."
  @spec inheritable(keyword()) :: options()
  def inheritable(options), do: Keyword.take(options, @inherited)

  @doc "Tells whether the children of this supervisor come and go, with no list of children to start."
  @spec dynamic?(pid()) :: boolean()
  def dynamic?(pid) do
    # Copies no facts, which may cover a thousand children.
    dynamic = for facts <- @dynamic, do: {:"=:=", :"$2", facts}
    condition = List.to_tuple([:orelse, {:"=:=", :"$1", :special} | dynamic])
    :ets.select(__MODULE__, [{{pid, :"$1", :_, :_, :"$2"}, [condition], [true]}]) == [true]
  rescue
    # The application is stopped.
    ArgumentError -> false
  end

  @doc "Notes a process that is linked with a supervisor and no child of it; see OOM.Tree.Newborns."
  @spec put_stranger(pid()) :: true
  def put_stranger(pid), do: :ets.insert(__MODULE__, {{:stranger, pid}})

  @spec stranger?(pid()) :: boolean()
  def stranger?(pid), do: :ets.member(__MODULE__, {:stranger, pid})

  @doc """
  Returns the supervisors whose children come and go; none where the table has more than `most` rows.
  """
  @spec dynamic(pos_integer()) :: [pid()]
  def dynamic(most) do
    kinds = [{:special, :_} | for(facts <- @dynamic, do: {:supervisor, facts})]
    rows = for {kind, facts} <- kinds, do: {{:"$1", kind, :_, :_, facts}, [], [:"$1"]}
    if :ets.info(__MODULE__, :size) <= most, do: :ets.select(__MODULE__, rows), else: []
  end

  @spec rank(options()) :: Priority.rank()
  def rank(options), do: Priority.rank!(Keyword.get(options, :priority, :normal))

  @doc """
  Turns a worker into a supervisor, where the specification did not say so. The worker's options now apply
  to all children. Returns `false` for a process that has a row already, or is no worker.
  """
  @spec no_worker(pid()) :: boolean()
  def no_worker(pid) do
    with nil <- lookup(pid),
         {_, _, _, _, _, supervisor, _, _, _} <- Workers.lookup(pid) do
      put(pid, :supervisor, supervisor, options_below(pid))
      Workers.delete(pid)
      Census.changed()
      true
    else
      _ -> false
    end
  end

  @doc "Returns the options for workers below a worker: the worker's own, and those from above."
  @spec options_below(pid()) :: options()
  def options_below(worker) do
    case Workers.lookup(worker) do
      {_, rank, _, _, _, supervisor, _, own, _} ->
        above = if supervisor, do: options(supervisor), else: []
        priority = [priority: Units.own(worker) || rank]
        above |> Keyword.merge(own) |> Keyword.merge(priority)

      nil ->
        []
    end
  end

  @doc """
  Enters a supervisor started by others with these options for all below. Workers and supervisors known there
  already are found anew, but for those with a priority of their own.
  """
  @spec adopt(pid(), options()) :: :ok
  def adopt(pid, options) do
    if row_options(pid) != inheritable(options) or kind(pid) != :supervisor do
      below =
        for {child, kind, ^pid, _, _} when kind in [:supervisor, :special] <- all(), do: child

      Enum.each([pid | below], &Workers.forget_found/1)
      Enum.each(below, &:ets.delete(__MODULE__, &1))
      put(pid, :supervisor, parent(pid), options)
    end

    :ok
  end

  @doc "Returns the exit reason for victims of this supervisor: `:kill` where an order to leave would not do."
  @spec exit_reason(pid() | nil) :: :kill | :shutdown
  def exit_reason(nil), do: :shutdown
  def exit_reason(supervisor), do: Keyword.get(options(supervisor), :exit_reason, :shutdown)

  @doc "Returns all rows."
  @spec all() :: [row()]
  def all, do: :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$_"]}])

  # Every row of the table, with the process that the row is about.
  @rows [
    {:"$1", :_, :_, :_, :_},
    {{:starting, :"$1"}, :_, :_},
    {{:no_supervisor, :"$1"}},
    {{:stranger, :"$1"}},
    {{:pool, :"$1", :_}, :_},
    {{:busy, :"$1"}, :_}
  ]

  @doc "Deletes the rows of processes that have ended, also in the middle of a start."
  @spec prune() :: :ok
  def prune do
    rows = for row <- @rows, do: {row, [], [{{:"$1", {:element, 1, :"$_"}}}]}

    for {pid, key} <- :ets.select(__MODULE__, rows),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, key)

    :ok
  end

  @doc "Adds a supervisor just started, with the options from its specification."
  @spec declared(pid(), pid(), options()) :: :ok
  def declared(pid, supervisor, options) do
    unless put_new(pid, :unknown, supervisor, options) do
      # An OOM.Supervisor has written its options itself.
      if kind(pid) == :supervisor do
        own = for {:own, rank} <- options(pid), name <- [:own, :priority], do: {name, rank}
        options = options |> inheritable() |> Keyword.merge(own)
        :ets.update_element(__MODULE__, pid, {4, options})
      end
    end

    Census.changed()
  end

  @doc "Returns the process that started `pid`; `nil` if unknown or on another node."
  @spec parent(pid()) :: pid() | nil
  def parent(pid) do
    case :erlang.process_info(pid, :parent) do
      {_, parent} when is_pid(parent) and node(parent) == node() -> parent
      _ -> nil
    end
  end

  @doc """
  Tells whether a supervisor is OTP's or Elixir's, and must be told before a child is killed (OOM.Visit).
  Looks at a supervisor of unknown kind.
  """
  @spec consents?(pid() | nil) :: boolean()
  def consents?(nil), do: false

  def consents?(supervisor) do
    case kind(supervisor) do
      :unknown -> match?({:supervisor, _, _}, InitialCall.of_supervisor(supervisor))
      kind -> kind in [:supervisor, :aside]
    end
  end
end
