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
    do: {pid, kind, parent, inheritable(options), nil}

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
  def options(pid), do: row_options(pid) || []

  @doc "The same, `nil` where it has no row."
  @spec row_options(pid()) :: options() | nil
  def row_options(pid), do: element(pid, 4)

  @doc "Those of these options that hold for what is below."
  @spec inheritable(keyword()) :: options()
  def inheritable(options), do: Keyword.take(options, @inherited)

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
      Census.changed()
      true
    else
      _ -> false
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

  @doc "Its supervisor has started it and knows what it said of it."
  @spec declared(pid(), pid(), options()) :: :ok
  def declared(pid, supervisor, options) do
    unless put_new(pid, :unknown, supervisor, options) do
      # An OOM.Supervisor has said so itself.
      if kind(pid) == :supervisor do
        own = for {:own, rank} <- options(pid), name <- [:own, :priority], do: {name, rank}
        options = options |> inheritable() |> Keyword.merge(own)
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
end
