defmodule OOM.Tables do
  @moduledoc false
  # Owns the ETS tables, and does nothing else, so that a crash of the guard, of the accountant or of the
  # holds loses no registration, no plan and no hold. The tables outlive the end of the owner, too: see
  # OOM.Tables.Heir.

  use GenServer

  alias OOM.Tables.Heir

  @tables [
    # {pid, rank, bytes, sampled_ms, state, supervisor, id, options, work}; see OOM.Workers
    {OOM.Workers, [:set, write_concurrency: true, read_concurrency: true]},
    # {{rank, -bytes, pid}}: the first worker dies first; see OOM.Plan
    {OOM.Plan, [:ordered_set]},
    # {{kind, pid}, bytes, detail, reading}; see OOM.Owned
    {OOM.Owned, [:set, read_concurrency: true]},
    # {pid, bytes}; see OOM.Steps. Ordered, because a walk meets concurrent changes.
    {OOM.Steps, [:ordered_set]},
    # {pid, bytes, at_ms}: growth shown by an experiment; {:last, at_ms}; see OOM.Charges
    {OOM.Charges, [:set, read_concurrency: true]},
    # {{appeared_ms, pid}}; see OOM.Newcomers
    {OOM.Newcomers, [:ordered_set]},
    # {pid, asked_ms}: workers that want a message before the kill; see OOM.Asker
    {OOM.Asker, [:set]},
    # {pid}: subscribers; {:told, level}; see OOM.Notifier
    {OOM.Notifier, [:set]},
    # {pid, killed_ms, bytes}: victims told to leave, for supervisors that see only `:killed`
    {OOM.Victims, [:set]},
    # {pid, kind, parent, options, facts}: the supervisors below; see OOM.Tree
    {OOM.Tree, [:set, read_concurrency: true]},
    # {pid, own rank, floor, bond}: workers that would take others along; see OOM.Units
    {OOM.Units, [:set, read_concurrency: true]},
    # {pid, size, origin, bytes, room?}, {:limit, bytes}; see OOM.HeapCaps
    {OOM.HeapCaps, [:set, read_concurrency: true]},
    # {{supervisor, id}, %OOM.Hold{}}; see OOM.Holds.Store
    {OOM.Holds, [:ordered_set]},
    # {:watcher, reference}, {:config, %OOM.Config{}}, {:held, counter}, {:stopping, true},
    # {{:killed, rank}, killed_ms}, {{:bridged, target}, set?}, {:ledger, {ledger, at_ms, until_ms}}, {{:adopted, target}, options}
    {OOM.State, [:set, read_concurrency: true]}
  ]

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config), do: GenServer.start_link(__MODULE__, config, name: __MODULE__)

  @doc "Makes a restarted heir the heir of all tables. Sent by the heir, without waiting."
  @spec inherits(pid()) :: :ok
  def inherits(heir), do: GenServer.cast(__MODULE__, {:heir, heir})

  @impl true
  def init(config) do
    heir = for pid when is_pid(pid) <- [Process.whereis(Heir)], do: {:heir, pid, nil}
    for {name, options} <- @tables, do: _ = table(name, options ++ heir)
    :ets.insert(OOM.State, {:config, config})
    {:ok, nil}
  end

  # A table given away keeps its heir.
  defp table(name, options) do
    unless Heir.take(name), do: :ets.new(name, [:named_table, :public | options])
  end

  @impl true
  def handle_cast({:heir, heir}, state) do
    for {name, _} <- @tables, do: :ets.setopts(name, {:heir, heir, nil})
    {:noreply, state}
  end

  # The `:"ETS-TRANSFER"` of an inherited table.
  @impl true
  def handle_info(_message, state), do: {:noreply, state}

  @doc "Returns the validated configuration, or `nil` where the application does not run."
  @spec config() :: OOM.Config.t() | nil
  def config, do: state(:config)

  @doc "Returns the running watcher, or `nil`."
  @spec watcher() :: reference() | nil
  def watcher, do: state(:watcher)

  @spec put_watcher(reference() | nil) :: true
  def put_watcher(nil), do: :ets.delete(OOM.State, :watcher)
  def put_watcher(ref), do: :ets.insert(OOM.State, {:watcher, ref})

  @doc "Returns the number of held children; OOM.Holds keeps the counter."
  @spec held() :: non_neg_integer()
  def held do
    case state(:held) do
      nil -> 0
      counter -> :counters.get(counter, 1)
    end
  end

  @spec put_held(:counters.counters_ref()) :: true
  def put_held(counter), do: :ets.insert(OOM.State, {:held, counter})

  @doc "Returns the last ledger, its time, and until when it holds; see OOM.Bookkeeper."
  @spec ledger() :: {OOM.Ledger.t(), integer(), integer()} | nil
  def ledger, do: state(:ledger)

  @spec put_ledger({OOM.Ledger.t(), integer(), integer()}) :: true
  def put_ledger(ledger), do: :ets.insert(OOM.State, {:ledger, ledger})

  @doc "Notes the time of a kill at this rank. Called by the guard."
  @spec put_killed(0..1000, integer()) :: :ok
  def put_killed(rank, now_ms) do
    :ets.insert(OOM.State, {{:killed, rank}, now_ms})
    :ok
  end

  @doc "Tells whether the guard has killed at this rank or a higher rank since `ms`."
  @spec killed_since?(0..1000, integer()) :: boolean()
  def killed_since?(rank, ms) do
    row = {{{:killed, :"$1"}, :"$2"}, [{:>=, :"$1", rank}, {:>=, :"$2", ms}], [true]}
    match?({[true], _more}, :ets.select(OOM.State, [row], 1))
  rescue
    ArgumentError -> false
  end

  @doc "Notes the adoption of a supervisor; see OOM.Tree.Adoption."
  @spec put_adopted(OOM.Tree.Adoption.target(), keyword()) :: true
  def put_adopted(target, options), do: :ets.insert(OOM.State, {{:adopted, target}, options})

  @doc "Returns all adoptions."
  @spec adopted() :: [{OOM.Tree.Adoption.target(), keyword()}]
  def adopted, do: :ets.select(OOM.State, [{{{:adopted, :"$1"}, :"$2"}, [], [{{:"$1", :"$2"}}]}])

  @doc "Notes whether the alarm of the bridge to this target is set; see OOM.Bridge."
  @spec put_bridged(OOM.Bridge.target(), boolean()) :: true
  def put_bridged(target, set?) do
    :ets.insert(OOM.State, {{:bridged, target}, set?})
  rescue
    # The application is stopped.
    ArgumentError -> true
  end

  @doc "Tells whether the alarm of the bridge to this target is set."
  @spec bridged?(OOM.Bridge.target()) :: boolean()
  def bridged?(target), do: state({:bridged, target}) == true

  @doc "Tells whether the application is about to end: a child held from now on would stay down."
  @spec stopping?() :: boolean()
  def stopping?, do: state(:stopping) == true

  @spec put_stopping() :: true
  def put_stopping, do: :ets.insert(OOM.State, {:stopping, true})

  @doc """
  Runs a function that needs the tables for more than one step. Where the tables go away meanwhile, the
  application is being stopped: the result is not needed any more, and the caller must not fail.
  """
  @spec while_there((() -> term())) :: :ok
  def while_there(fun) do
    _ = fun.()
    :ok
  rescue
    error in ArgumentError ->
      # The tables go one after another, and the table of the configuration does not go first.
      if stopping?() or config() == nil, do: :ok, else: reraise(error, __STACKTRACE__)
  end

  # In a stopped application there are no tables: a state, not an error.
  defp state(key) do
    case :ets.lookup(OOM.State, key) do
      [{_, value}] -> value
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end
end
