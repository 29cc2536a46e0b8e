defmodule OOM.Test.Chaos do
  @moduledoc false
  # Runs inside a limited VM: a random tree, growth coming and going, a protected process under
  # constant questions, and the invariants of a calm node.

  alias OOM.Test.Chaos.Tree

  @mib 1_048_576
  @patience_ms 60_000
  @kinds [:list, :binary, :append, :dictionary, :table, :mailbox]

  defmodule Vault do
    @moduledoc false
    # State that must not be lost, and a client asking all the time.
    use GenServer

    def start_link(arg), do: GenServer.start_link(__MODULE__, arg, name: __MODULE__)

    @impl true
    def init(_arg) do
      state = for n <- 1..1_000, into: %{}, do: {n, :erlang.md5(<<n::32>>)}
      {:ok, {state, 0}}
    end

    @impl true
    def handle_call(:ask, _from, {state, asked}) do
      n = rem(asked, 1_000) + 1
      {:reply, {asked + 1, state[n] == :erlang.md5(<<n::32>>)}, {state, asked + 1}}
    end
  end

  @doc "Starts the lasting processes: the keeper of the notes, and the canary's client."
  @spec setup() :: pid()
  def setup do
    caller = self()

    pid =
      spawn(fn ->
        :ets.new(__MODULE__, [:public, :named_table, write_concurrency: true])
        :ok = :logger.add_handler(__MODULE__, __MODULE__, %{level: :error})
        send(caller, {:ready, self()})
        Process.sleep(:infinity)
      end)

    receive(do: ({:ready, ^pid} -> pid))
  end

  # A supervisor with a report has seen a crash, and only the library's processes may crash.
  # (`shutdown_error`: a group was ending while the guard killed a member. The supervisor reports
  # the kill, and the report counts for nothing.)
  @doc false
  @spec log(:logger.log_event(), :logger.handler_config()) :: term()
  def log(%{msg: {:report, %{label: {:supervisor, what}, report: report}}}, _config) do
    ours? = match?({_, name} when name in [OOM.Application, OOM.Keeper], report[:supervisor])
    parts? = match?([_ | _], report[:offender]) and is_atom(report[:offender][:id])

    unless ours? or parts? or what == :shutdown_error,
      do: broken("#{what}: #{inspect(report, limit: 30, charlists: :as_lists)}")
  end

  def log(_event, _config), do: :ok

  @doc "Starts a new tree, made from `seed`; returns the number of workers that must come back."
  @spec start(integer()) :: pos_integer()
  def start(seed) do
    caller = self()

    spawn(fn ->
      Process.flag(:trap_exit, true)
      :rand.seed(:exsss, seed)
      {children, must} = Tree.make()
      vault = OOM.child_spec({Vault, nil}, priority: :protected)

      {:ok, top} =
        OOM.Supervisor.start_link([vault | children], strategy: :one_for_one, max_restarts: 0)

      :ets.insert(__MODULE__, [{:must, must}, {:top, top}, {:keeper, self()}])
      :ets.insert(__MODULE__, [{:vault, Process.whereis(Vault)}, {:worst_us, 0}])
      :ets.insert(__MODULE__, {:shape, shape(top)})
      canary = spawn_link(fn -> canary(0) end)
      send(caller, {:started, length(must)})
      keep(top, canary)
    end)

    receive(do: ({:started, count} -> count))
  end

  defp keep(top, canary) do
    receive do
      {:EXIT, ^canary, reason} ->
        broken("the canary: #{inspect(reason)}")
        keep(top, canary)

      {:EXIT, ^top, reason} ->
        broken("the tree ended: #{inspect(reason)}")
        keep(top, canary)

      {:stop, from} ->
        Process.unlink(canary)
        Process.exit(canary, :kill)
        Supervisor.stop(top)
        send(from, :stopped)
    end
  end

  defp canary(asked) do
    began = System.monotonic_time(:microsecond)
    {count, intact?} = GenServer.call(Vault, :ask, :infinity)
    took = System.monotonic_time(:microsecond) - began
    if count != asked + 1, do: broken("the protected process lost its state")
    if not intact?, do: broken("the protected state is damaged")

    if took > :ets.lookup_element(__MODULE__, :worst_us, 2),
      do: :ets.insert(__MODULE__, {:worst_us, took})

    Process.sleep(20)
    canary(count)
  end

  @doc "Lets some of the workers grow."
  @spec stir(integer()) :: :ok
  def stir(seed) do
    :rand.seed(:exsss, seed)

    case Enum.shuffle(workers()) do
      [] ->
        :ok

      workers ->
        count = max(div(length(workers) * Enum.random(2..50), 100), 1)
        mib_per_s = Enum.random([5, 20, 50, 100, 200])
        bytes = max(div(mib_per_s * @mib, 100 * count), 512)
        message = {:grow, Enum.random(@kinds), bytes, Enum.random(50..400)}
        for pid <- Enum.take(workers, count), do: send(pid, message)
        :ok
    end
  end

  @doc "Lets some of the workers drop their data."
  @spec drop(integer()) :: :ok
  def drop(seed) do
    :rand.seed(:exsss, seed)
    for pid <- workers(), :rand.uniform() < 0.3, do: send(pid, :drop)
    :ok
  end

  @doc """
  Ends all growth. Waits until all is as expected: held workers are back, given up workers are
  released by hand and back. Returns the deviations after a minute, in words.
  """
  @spec calm() :: %{
          broken: [String.t()],
          released: non_neg_integer(),
          worst_us: non_neg_integer()
        }
  def calm do
    {wrong, released} = settle(now() + @patience_ms, 0)
    broken = for [text] <- :ets.match(__MODULE__, {{:broken, :_}, :"$1"}), do: text
    :ets.match_delete(__MODULE__, {{:broken, :_}, :_})
    worst_us = :ets.lookup_element(__MODULE__, :worst_us, 2)
    :ets.insert(__MODULE__, {:worst_us, 0})
    %{broken: broken ++ wrong, released: released, worst_us: worst_us}
  end

  defp settle(deadline, released) do
    for pid <- workers(), do: send(pid, :drop)
    Process.sleep(100)

    given_up = for %{state: :given_up} = held <- OOM.held(), do: held
    for held <- given_up, do: OOM.release(held)
    released = released + length(given_up)

    case wrong() do
      [] -> {[], released}
      wrong -> if now() > deadline, do: {wrong, released}, else: settle(deadline, released)
    end
  end

  defp wrong do
    [{:must, must}] = :ets.lookup(__MODULE__, :must)
    [{:vault, vault}] = :ets.lookup(__MODULE__, :vault)
    [{:top, top}] = :ets.lookup(__MODULE__, :top)
    missing = for name <- must, not runs?(name), do: "#{inspect(name)} does not run"
    held = OOM.held()

    Enum.take(missing, 5) ++
      if(held == [], do: [], else: ["still held: #{inspect(Enum.take(held, 3))}"]) ++
      if(Process.whereis(Vault) == vault, do: [], else: ["the protected process was ended"]) ++
      if(OOM.level() == :normal,
        do: [],
        else: ["the level is #{OOM.level()}: #{inspect(OOM.snapshot())}"]
      ) ++
      if(missing == [] and Process.alive?(top), do: changed(top), else: [])
  end

  defp changed(top) do
    [{:shape, before}] = :ets.lookup(__MODULE__, :shape)
    now = shape(top)

    if now == before,
      do: [],
      else: ["children were #{inspect(before -- now)}, are #{inspect(now -- before)}"]
  end

  # Temporary children go, and DynamicSupervisors have no order.
  defp shape(supervisor) do
    for {id, pid, type, _} <- children(supervisor), lasts?(supervisor, id, type) do
      {id, type, if(type == :supervisor and is_pid(pid), do: shape(pid), else: is_pid(pid))}
    end
    |> Enum.sort()
  end

  defp children(supervisor) do
    :supervisor.which_children(supervisor)
  catch
    # The supervisor is ending.
    :exit, _ -> []
  end

  # Children of a supervisor without ids are counted by the names that must run.
  defp lasts?(_supervisor, :undefined, :supervisor), do: true
  defp lasts?(_supervisor, :undefined, _), do: false

  defp lasts?(supervisor, id, _type) do
    match?(
      {:ok, %{restart: restart}} when restart != :temporary,
      :supervisor.get_childspec(supervisor, id)
    )
  catch
    :exit, _ -> true
  end

  @doc "Ends the tree."
  @spec stop() :: :ok
  def stop do
    [{:keeper, keeper}] = :ets.lookup(__MODULE__, :keeper)
    send(keeper, {:stop, self()})

    receive do
      :stopped -> :ok
    after
      @patience_ms -> exit(:the_tree_does_not_end)
    end

    :ets.match_delete(__MODULE__, {{:worker, :_}, :_})
    :ok
  end

  @doc "Returns the figures that must not grow, with no tree running."
  @spec holdings() :: %{atom() => non_neg_integer()}
  def holdings do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)

    # Each scheduler keeps the freed segments for the next request.
    for scheduler <- 1..System.schedulers_online() do
      {_, ref} = :erlang.spawn_opt(&OOM.Native.trim/0, [:monitor, scheduler: scheduler])
      receive do: ({:DOWN, ^ref, _, _, _} -> :ok)
    end

    %{
      processes: length(Process.list()),
      tables: length(:ets.all()),
      atoms: :erlang.system_info(:atom_count),
      ports: length(Port.list()),
      bytes: :erlang.memory(:total),
      carriers: carriers(),
      rows: rows(20)
    }
  end

  # Memory the VM's allocators have from the system, in use or not.
  defp carriers do
    for allocator <- :erlang.system_info(:alloc_util_allocators),
        {:instance, _, kinds} <- sizes(:erlang.system_info({:allocator_sizes, allocator})),
        {kind, figures} when kind in [:mbcs, :sbcs, :mbcs_pool] <- kinds,
        figure <- figures,
        elem(figure, 0) == :carriers_size,
        reduce: 0,
        do: (sum -> sum + elem(figure, 1))
  end

  # A disabled allocator has no figures.
  defp sizes(instances) when is_list(instances), do: instances
  defp sizes(_off), do: []

  # The rows about dead processes, once the library has had time to remove them.
  defp rows(tries) do
    :ok = OOM.Tree.Census.walk()
    rows = rows()
    if rows > 0 and tries > 0, do: Process.sleep(100) && rows(tries - 1), else: rows
  end

  defp rows do
    for table <- [
          OOM.Workers,
          OOM.Plan,
          OOM.Owned,
          OOM.Steps,
          OOM.Asker,
          OOM.Tree,
          OOM.Units,
          OOM.Holds
        ],
        :ets.whereis(table) != :undefined,
        reduce: 0,
        do: (sum -> sum + :ets.info(table, :size))
  end

  @doc "Kills a process of the library; returns whether it was there."
  @spec crash(atom()) :: boolean()
  def crash(name) do
    case Process.whereis(name) do
      nil -> false
      pid -> Process.exit(pid, :kill)
    end
  end

  @doc "Replaces a module of the library by itself, as an upgrade does, with no mercy for old code."
  @spec reload(module()) :: {:module, module()} | {:error, term()}
  def reload(module) do
    :code.purge(module)
    :code.load_file(module)
  end

  @spec modules() :: [module()]
  def modules do
    {:ok, modules} = :application.get_key(:oom, :modules)
    for module <- modules, not String.starts_with?(inspect(module), "OOM.Test"), do: module
  end

  @spec starts() :: non_neg_integer()
  def starts, do: :ets.lookup_element(__MODULE__, :starts, 2)

  @doc "Waits until the limit of this VM's cgroup binds again."
  @spec await_limit(pos_integer()) :: :ok | {:error, OOM.Snapshot.t()}
  def await_limit(bytes, deadline \\ nil) do
    # Missing files are looked for at every sixteenth sample, and at rest there is one a second.
    deadline = deadline || now() + 30_000

    cond do
      OOM.snapshot().limit_bytes == bytes -> :ok
      now() > deadline -> {:error, OOM.snapshot()}
      true -> Process.sleep(10) && await_limit(bytes, deadline)
    end
  end

  @doc "Notes the state each 10 ms, to find out why a VM is gone."
  @spec trace(Path.t()) :: pid()
  def trace(path) do
    :erlang.spawn_opt(
      fn ->
        {:ok, file} = :file.open(path, [:raw, :append])
        trace_on(file)
      end,
      priority: :max
    )
  end

  defp trace_on(file) do
    s = OOM.snapshot()
    guard = inspect(Process.whereis(OOM.Guard))
    mib = &div(&1 || 0, @mib)

    line =
      "#{rem(now(), 1_000_000)} #{s.level} ws #{mib.(s.working_set_bytes)} of #{mib.(s.limit_bytes)} " <>
        "growth #{mib.(s.growth_bytes_per_s)} slack #{mib.(s.slack_bytes)} n #{s.samples} guard #{guard} " <>
        "plan #{:ets.info(OOM.Plan, :size)} first #{inspect(:ets.first(OOM.Plan))} " <>
        "queue #{:erlang.statistics(:total_run_queue_lengths)} holds #{:ets.info(OOM.Holds, :size)}\n"

    :ok = :file.write(file, line)
    Process.sleep(10)
    trace_on(file)
  rescue
    # The tables are between two lives.
    ArgumentError -> trace_on(file)
  end

  @doc "Forgets the worst answer so far, and its violations, after a stop of the whole VM."
  @spec forget_worst() :: true
  def forget_worst, do: :ets.insert(__MODULE__, {:worst_us, 0})

  defp workers,
    do: for([pid] <- :ets.match(__MODULE__, {{:worker, :_}, :"$1"}), Process.alive?(pid), do: pid)

  defp runs?(name) do
    match?([{_, pid}] when is_pid(pid), :ets.lookup(__MODULE__, {:worker, name})) and
      Process.alive?(:ets.lookup_element(__MODULE__, {:worker, name}, 2))
  end

  defp broken(text), do: :ets.insert(__MODULE__, {{:broken, make_ref()}, text})
  defp now, do: System.monotonic_time(:millisecond)
end
