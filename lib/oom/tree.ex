defmodule OOM.Tree do
  @moduledoc false
  # The supervisors below each OOM.Supervisor, and what holds for what is below them. A row is
  # written by an OOM.Supervisor about itself and its children, and by the walk that looks for the
  # rest in the background (OOM.Tree.Walk). Whoever kills reads it, and asks nobody.

  alias OOM.{Priority, Units, Workers}

  @typedoc """
    * `:oom` - an OOM.Supervisor: sees its children end, and holds them itself
    * `:supervisor` - OTP's or Elixir's: is told before its child is (OOM.Visit)
    * `:special` - a supervisor with a loop of its own, as ranch has; its children are temporary
    * `:unknown` - said to be a supervisor, and nobody has looked yet
    * `:unit` - dies and returns as a whole, and has a row in OOM.Workers
    * `:inside` - an OOM.Supervisor in a unit
    * `:worker` - had children, so it was looked at, and is no supervisor
  """
  @type kind :: :oom | :supervisor | :special | :unknown | :unit | :inside | :worker
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
  def put_facts(pid, facts), do: :ets.update_element(__MODULE__, pid, {5, facts})

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

  @doc "Whether the children of this supervisor go down together; as far as it is known."
  @spec together?(pid()) :: boolean()
  def together?(pid) do
    row = {pid, :_, :_, :_, {:"$1", :_, :_}}
    :ets.select(__MODULE__, [{row, [], [:"$1"]}]) in [[:one_for_all], [:rest_for_one]]
  end

  @doc "Whether it stands for what is below it: what it starts is not its own."
  @spec supervisor?(pid()) :: boolean()
  def supervisor?(pid), do: kind(pid) in [:oom, :supervisor, :special, :unknown]

  @doc "The options that hold for the children of this supervisor."
  @spec options(pid()) :: options()
  def options(pid), do: element(pid, 4) || []

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
    :ets.update_element(__MODULE__, self(), {4, Keyword.take(options, @inherited)})
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

    for pid <- :ets.select(__MODULE__, [{{{:starting, :"$1"}, :_}, [], [:"$1"]}]),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, {:starting, pid})

    :ok
  end

  @doc """
  Called in a supervisor that is about to start a child, which may be a supervisor, too, whether its
  specification says so or not: what is below it may ask what holds for it before the start is
  through.
  """
  @spec starting(options()) :: true
  def starting(options),
    do: :ets.insert(__MODULE__, {{:starting, self()}, Keyword.take(options, @inherited)})

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

  defp note(pid) do
    case :ets.lookup(__MODULE__, {:starting, pid}) do
      [{_, starting}] -> starting
      [] -> []
    end
  end

  @doc "Called in a supervisor: what holds for its children."
  @spec here() :: options()
  # Where there is no row it is being started, and whoever does that has not heard of it yet.
  def here, do: element(self(), 4) || inherited()
end
