defmodule OOM.Supervisor do
  @moduledoc """
  A drop-in for `Supervisor` whose children can be taken back when memory runs out.

      children = [
        OOM.child_spec(MyApp.Connections, priority: :low),
        MyApp.Billing
      ]

      OOM.Supervisor.start_link(children, strategy: :one_for_one, oom: [priority: :normal])

  It is OTP's supervisor: the same options, return values, strategies and restart intensity, and
  every function of `Supervisor` works on its pid. What is different:

    * Its workers are registered with the guard: under memory pressure, those of the lowest
      priority end with `{:shutdown, :memory_pressure}`, the largest first, no more than needed.
      (A worker that traps exits hears it as the exit of its supervisor: a GenServer calls
      `terminate/2`. It gets `:kill` after `grace_ms`.)
    * Such a child is **held**: not restarted, not counted towards `max_restarts`. It is restarted
      after a backoff, whatever the level is, as soon as what it last held fits the headroom above the
      floor and memory does not grow into that. Where it has found no room for its longest backoff, or
      there can be none, the alarm `:oom_no_room` says so, and it is tried alone when memory stands
      still. A start that fails is logged and tried again, with the alarm `:oom_start_fails` after three
      in a row; one that finds its child started by somebody else (`:already_started`) ends the hold.
      With `:one_for_all` and `:rest_for_one`, what the strategy would restart with it is held
      with it, and stays down when a sibling's crash makes the strategy restart all the others. A
      child that is ended while it starts is held, too, unless somebody asked for that start.
      Asking `Supervisor.restart_child/2`, `terminate_child/2` or `delete_child/2` for a held child
      ends the hold.
    * While the level is `:critical`, and the guard has killed a worker worth as much or more within the
      last second, a worker (or a unit) that a `:one_for_one` supervisor would start by itself, at its own
      beginning or after a crash, is held from the start: it would be the next to go. What its
      specification or its supervisor says counts; what it would say itself in `init/1` is not known yet.
      Protected, temporary and significant children are started, and so is what somebody asks for. A
      supervisor is always started, and does the same with its own. So what has to be there when others
      start should be worth more than those that may be killed.
    * One that is killed `max_kills` times without having lived for `stable_ms` in between is given
      up: it stays down until `OOM.release/1`. See `OOM.held/0`.
    * When the `:oom` application is stopped, what is held comes back at once, and the supervisor is
      a plain one from then on. What was given up stays down.
    * Its workers below `:high` get a `max_heap_size` (see `t:OOM.max_heap_size/0`), because a process
      that grows its heap is faster than any sampling. One that is killed by it is held in the same
      way. For that a child that has one and ends with `:killed` is restarted 50 ms later than
      under `Supervisor`, when the VM's reports have been read, which tell whether it was that. Any other `:killed` is a
      crash like another, at every level. What runs on
      `proc_lib` and answers `:sys` is reached (GenServer, Agent, `:gen_statem`, `:gen_event`), and
      a `{Task, fun}` child. A module that calls `Task.start_link/1` itself, or a plain
      `spawn_link`, is not, unless it calls `OOM.set_priority/2`; until then the guard's sampling
      is all that covers it.

    * A `:protected` worker is never held: however it ends, it is restarted at once, and that counts.

  Temporary children are killed and forgotten, as ever.

  ## What is below it

  The tree below is looked through in the background (each second while many come and go, each ten
  seconds while nobody does, at once when memory becomes short). Workers under plain supervisors are
  registered with the priority of the nearest declaration above them: their own
  (`OOM.set_priority/1`, `OOM.child_spec/2`), or that of a supervisor,
  `OOM.child_spec(sup, priority: :low)`, or of the `OOM.Supervisor`. They are killed with the consent
  of their supervisor, whatever it is just doing, and no restart is counted:

    * `Supervisor`: the child, with what its strategy takes along, is held and restarted later
    * `DynamicSupervisor` and `:simple_one_for_one`: it is forgotten, as
      `DynamicSupervisor.terminate_child/2` has it, and started again later, with a new pid
    * temporary children (`Task.Supervisor`, ranch, Thousand Island), and processes that are no
      child of their supervisor: killed, and that is all. A task that would take along who awaits it
      (`Task.Supervisor.async/2`) is worth as much as that one, when it is found
    * `Registry`: never killed, because all who are registered there would end with it

  A held child of a plain supervisor comes back even where `Supervisor.terminate_child/2` is asked for
  it meanwhile, which that supervisor tells nobody; `Supervisor.delete_child/2` keeps it away.

  `max_heap_size` is not set from outside for what is found so. A worker that calls
  `OOM.set_priority/1` under a supervisor that is not below an `OOM.Supervisor` is killed with its
  consent, too, and held; nobody looks for its siblings. With `:one_for_all` and `:rest_for_one`, a plain supervisor starts a
  held child again when a sibling's crash makes it restart them all.

  ## What goes together

  A worker is worth as much as the most important process that its end would take along: one that is
  linked with it and does not trap exits, directly or by way of others; one that it has started; and one
  that waits for it in a call or in `Task.await/2`, or reads a stream of tasks that it is one of. Where
  one of these is protected, it is not killed. So a `:low` cache that a protected server has started with
  `start_link` is protected. Links count as they are when the kill is made; who merely monitors it does
  not count. A process outside that has a supervisor of its own counts as protected, where it is linked.

  With `:one_for_all` and `:rest_for_one` a child is worth as much as the most important of those
  that would go with it, and is not killed where one of them is protected, nor before it is known who
  they are (looked for in the background, as what is below). A temporary child takes nobody along. A
  significant child that is transient is held, which ends no supervisor (see `auto_shutdown`). The end
  of a temporary one may, so it is worth as much as the most important of those below that supervisor.
  A permanent supervisor that ends so is held by its own, and no restart is counted; and with
  `:all_significant` none ends while another significant child of it is held (a plain one does where the
  last of those that run ends of itself).

  `OOM.child_spec(sup, unit: true)` makes a subtree one worker with one priority: what is below it
  counts for it, it is told to leave in order, ended by force after `grace_ms`, held, and comes back
  as a whole. A priority that is declared inside it does not count.

  ## Options under `:oom`

  Defaults for the children, which `OOM.child_spec/2` and the worker's own `OOM.set_priority/2`
  override. Where nothing is said, the nearest supervisor above that says it counts, and then:

    * `:priority` - see `t:OOM.priority/0`. Default: `:normal`
    * `:max_heap_size` - see `t:OOM.max_heap_size/0`. Default: from `config :oom`
    * `:backoff` - `[initial_ms: i, max_ms: m]`. Default: from `config :oom`
    * `:max_kills` - a positive integer or `:infinity`. Default: from `config :oom`
    * `:shed` - the share of its children it gives back at once from the level `:high` on, see
      `OOM.child_spec/2`. Default: `nil`
    * `:handle_pressure` - whether they are asked to shrink before they would be killed, see
      `OOM.Pressure`. Default: `false`
  """

  alias OOM.Child
  alias OOM.Supervisor.{Callback, Server}

  @flags [:strategy, :max_seconds, :max_restarts, :auto_shutdown]

  @typedoc "What OOM should know of children; see `OOM.child_spec/2`."
  @type oom_option ::
          {:priority, OOM.priority()}
          | {:max_heap_size, OOM.max_heap_size()}
          | {:backoff, keyword()}
          | {:unit, boolean()}
          | {:max_kills, pos_integer() | :infinity}
          | {:handle_pressure, boolean()}
          | {:shed, {:fraction, number()} | {:fraction, number(), :newest | :largest} | nil}

  @type option :: Supervisor.option() | Supervisor.init_option() | {:oom, [oom_option()]}

  # So that `alias OOM.Supervisor` is all there is to change.
  @type on_start :: Supervisor.on_start()
  @type on_start_child :: Supervisor.on_start_child()
  @type child :: Supervisor.child()
  @type child_spec :: Supervisor.child_spec()
  @type name :: Supervisor.name()
  @type supervisor :: Supervisor.supervisor()
  @type init_option :: Supervisor.init_option() | {:oom, [oom_option()]}
  @type sup_flags :: Supervisor.sup_flags()
  @type strategy :: Supervisor.strategy()
  @type restart :: Supervisor.restart()
  @type shutdown :: Supervisor.shutdown()
  @type type :: Supervisor.type()

  defmacro __using__(opts) do
    quote location: :keep, bind_quoted: [opts: opts] do
      # As `use Supervisor` does.
      import Supervisor.Spec
      @behaviour Supervisor

      unless Module.has_attribute?(__MODULE__, :doc) do
        @doc """
        Returns a specification to start this module under a supervisor.

        See `OOM.Supervisor`.
        """
      end

      def child_spec(init_arg) do
        default = %{
          id: __MODULE__,
          start: {__MODULE__, :start_link, [init_arg]},
          type: :supervisor
        }

        Supervisor.child_spec(default, unquote(Macro.escape(opts)))
      end

      defoverridable child_spec: 1
    end
  end

  @doc """
  Starts a supervisor with the given children, as `Supervisor.start_link/2` does.

  Or, with a module and its argument, as `Supervisor.start_link/2` does for modules. Raises
  `ArgumentError` for a wrong option under `:oom`.
  """
  @spec start_link([:supervisor.child_spec() | {module(), term()} | module()], [option()]) ::
          Supervisor.on_start()
  @spec start_link(module(), term()) :: Supervisor.on_start()
  def start_link(children, options) when is_list(children) do
    {flags, start_options} = Keyword.split(options, @flags)
    start_link(Supervisor.Default, otp_init(children, flags), start_options)
  end

  def start_link(module, init_arg) when is_atom(module), do: start_link(module, init_arg, [])

  @doc "Starts a module-based supervisor, as `Supervisor.start_link/3` does."
  @spec start_link(module(), term(), [Supervisor.option() | {:oom, [oom_option()]}]) ::
          Supervisor.on_start()
  def start_link(module, init_arg, options) when is_atom(module) and is_list(options) do
    {oom, options} = Keyword.pop(options, :oom, [])
    callback_arg = {module, init_arg, Child.Options.check!(oom)}

    case Keyword.get(options, :name) do
      nil ->
        :gen_server.start_link(Server, {:self, Callback, callback_arg}, [])

      name ->
        name = name!(name)
        :gen_server.start_link(name, Server, {name, Callback, callback_arg}, [])
    end
  end

  @doc """
  For the `init/1` of a module: as `Supervisor.init/2`, and takes `:oom` too.
  """
  @spec init([:supervisor.child_spec() | {module(), term()} | module()], [option()]) ::
          {:ok, tuple()}
  def init(children, options) when is_list(children) and is_list(options) do
    {oom, options} = Keyword.pop(options, :oom, [])
    {:ok, {flags, specs}} = otp_init(children, options)
    {:ok, {Map.put(flags, :oom, Child.Options.check!(oom)), specs}}
  end

  # Elixir passes :auto_shutdown on from 1.15 on; OTP has had it for longer.
  defp otp_init(children, options) do
    {:ok, {flags, specs}} = Supervisor.init(children, options)

    case Keyword.fetch(options, :auto_shutdown) do
      {:ok, auto_shutdown} -> {:ok, {Map.put(flags, :auto_shutdown, auto_shutdown), specs}}
      :error -> {:ok, {flags, specs}}
    end
  end

  @doc "As `Supervisor.child_spec/2`; `OOM.child_spec/2` takes the options for OOM, too."
  @spec child_spec(
          Supervisor.child_spec() | {module(), term()} | module() | :supervisor.child_spec(),
          keyword()
        ) :: Supervisor.child_spec() | :supervisor.child_spec()
  defdelegate child_spec(module_or_map, overrides), to: Supervisor

  @doc "As `Supervisor.start_child/2`."
  @spec start_child(
          Supervisor.supervisor(),
          :supervisor.child_spec() | {module(), term()} | module() | [term()]
        ) :: Supervisor.on_start_child()
  defdelegate start_child(supervisor, child_spec), to: Supervisor

  @doc "As `Supervisor.terminate_child/2`. Ends the hold of a held child, which stays down."
  @spec terminate_child(Supervisor.supervisor(), term()) :: :ok | {:error, :not_found}
  defdelegate terminate_child(supervisor, child_id), to: Supervisor

  @doc "As `Supervisor.delete_child/2`. A held child can be deleted."
  @spec delete_child(Supervisor.supervisor(), term()) ::
          :ok | {:error, :not_found | :running | :restarting}
  defdelegate delete_child(supervisor, child_id), to: Supervisor

  @doc "As `Supervisor.restart_child/2`. Starts a held child now, and so ends its hold."
  @spec restart_child(Supervisor.supervisor(), term()) ::
          {:ok, Supervisor.child()}
          | {:ok, Supervisor.child(), term()}
          | {:error, :not_found | :running | :restarting | term()}
  defdelegate restart_child(supervisor, child_id), to: Supervisor

  @doc "As `Supervisor.which_children/1`. A held child is `:undefined`."
  @spec which_children(Supervisor.supervisor()) :: [
          {term() | :undefined, Supervisor.child() | :restarting, :worker | :supervisor,
           [module()] | :dynamic}
        ]
  defdelegate which_children(supervisor), to: Supervisor

  @doc "As `Supervisor.count_children/1`. A held child is not active."
  @spec count_children(Supervisor.supervisor()) :: %{
          specs: non_neg_integer(),
          active: non_neg_integer(),
          supervisors: non_neg_integer(),
          workers: non_neg_integer()
        }
  defdelegate count_children(supervisor), to: Supervisor

  @doc "As `Supervisor.stop/3`."
  @spec stop(Supervisor.supervisor(), reason :: term(), timeout()) :: :ok
  defdelegate stop(supervisor, reason \\ :normal, timeout \\ :infinity), to: Supervisor

  defp name!(name) when is_atom(name), do: {:local, name}
  defp name!({:global, _term} = name), do: name
  defp name!({:via, module, _term} = name) when is_atom(module), do: name

  defp name!(other) do
    raise ArgumentError, """
    expected :name option to be one of the following:

      * nil
      * atom
      * {:global, term}
      * {:via, module, term}

    Got: #{inspect(other)}
    """
  end
end
