defmodule OOM.Tree do
  @moduledoc false
  # The supervisors below each OOM.Supervisor, and what holds for what is below them. A row is
  # written by an OOM.Supervisor about itself and its children, and by the walk that looks for the
  # rest in the background (OOM.Tree.Walk). Whoever kills reads it, and asks nobody.

  alias OOM.Priority
  alias OOM.Tree.Census

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
  def kind(pid) do
    with row when row != nil <- lookup(pid), do: elem(row, 1)
  end

  @doc "Whether it stands for what is below it: what it starts is not its own."
  @spec supervisor?(pid()) :: boolean()
  def supervisor?(pid), do: kind(pid) in [:oom, :supervisor, :special, :unknown]

  @doc "The options that hold for the children of this supervisor."
  @spec options(pid()) :: options()
  def options(pid) do
    case lookup(pid) do
      nil -> []
      row -> elem(row, 3)
    end
  end

  @spec rank(options()) :: Priority.rank()
  def rank(options), do: Priority.rank!(Keyword.get(options, :priority, :normal))

  @doc "All rows."
  @spec all() :: [row()]
  def all, do: :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$_"]}])

  @doc "Forgets those that have ended."
  @spec prune() :: :ok
  def prune do
    for pid <- :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$1"]}]),
        not Process.alive?(pid),
        do: :ets.delete(__MODULE__, pid)

    for pid <- all_busy(), not Process.alive?(pid), do: :ets.delete(__MODULE__, {:busy, pid})
    :ok
  end

  @doc """
  Called in a supervisor that is about to start a child which is a supervisor, too: what is below
  that one may ask what holds for it before the start is through.
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
    starting = if lookup(below) == nil, do: note(pid), else: []

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

  # Further up nobody looks.
  @generations 16

  @doc "Whether a process is below a unit, or one that is just being started; else below whom we know."
  @spec above(pid()) :: :unit | :known | :nobody
  def above(pid), do: above(parent(pid), pid, @generations)

  defp above(parent, pid, generations) when parent != nil and generations > 0 do
    # The unit itself is a supervisor: no child of whoever is starting it just now is below it.
    starting = generations < @generations and lookup(pid) == nil and note(parent)[:inside_unit]

    case lookup(parent) do
      _ when starting -> :unit
      {_, _, _, options, _} -> if options[:inside_unit], do: :unit, else: :known
      nil -> above(parent(parent), parent, generations - 1)
    end
  end

  defp above(_parent, _pid, _generations), do: :nobody

  @doc """
  A worker that this process has started tells of itself. Where it is a supervisor below an
  OOM.Supervisor that no walk has found yet, it has its place from now on: one that may be killed
  has a supervisor that is told, and of which it is asked who else would go.
  """
  @spec met(pid() | nil) :: :ok
  def met(pid) do
    if pid != nil and lookup(pid) == nil, do: find(pid, @generations)
    :ok
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
         :supervisor <- initial_call(pid) do
      options = Keyword.merge(options, note(parent))
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
      if kind(pid) == :supervisor,
        do: :ets.update_element(__MODULE__, pid, {4, Keyword.take(options, @inherited)})
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
      :unknown -> initial_call(supervisor) == :supervisor
      kind -> kind == :supervisor
    end
  end

  @doc "`:supervisor` for OTP's and Elixir's, the module for others that proc_lib has started."
  @spec initial_call(pid()) :: module() | nil
  def initial_call(pid) do
    case dictionary(pid, :"$initial_call") do
      {:supervisor, _, _} -> :supervisor
      {module, _, _} -> module
      _ -> nil
    end
  end

  # One key where the VM can read one (OTP 26.2); decided once.
  if match?(
       {{:dictionary, _}, _},
       try do
         :erlang.process_info(self(), {:dictionary, :none})
       rescue
         ArgumentError -> nil
       end
     ) do
    defp dictionary(pid, key) do
      case :erlang.process_info(pid, {:dictionary, key}) do
        {_, value} -> value
        :undefined -> nil
      end
    end
  else
    defp dictionary(pid, key) do
      with {_, dictionary} <- :erlang.process_info(pid, :dictionary),
           {_, value} <- List.keyfind(dictionary, key, 0),
           do: value
    end
  end

  @doc "Called in a supervisor: what holds for its children."
  @spec here() :: options()
  def here do
    case lookup(self()) do
      {_, _, _, options, _} -> options
      # It is being started, and whoever does that has not heard of it yet.
      nil -> inherited()
    end
  end
end
