defmodule OOM.Supervisor do
  @moduledoc """
  A drop-in for `Supervisor` that ends children when memory runs out, and starts them again later.

      children = [
        OOM.child_spec(MyApp.Connections, priority: :low),
        MyApp.Billing
      ]

      OOM.Supervisor.start_link(children, strategy: :one_for_one, oom: [priority: :normal])

  The options, return values, strategies and restart intensity are those of OTP's supervisor, and every
  function of `Supervisor` works on the pid. The differences:

    * Workers are registered with the guard. Under memory pressure, workers of the lowest priority end
      with `{:shutdown, :memory_pressure}`, the largest first, no more than needed. (A worker that traps
      exits sees an exit of its supervisor: a GenServer calls `terminate/2`. The worker gets `:kill`
      after `grace_ms`.)
    * Such a child is **held**: not restarted, not counted towards `max_restarts`. The child is restarted
      after a backoff, at any level, as soon as its last size fits the headroom above twice the floor and
      memory does not grow into that room. If the child has found no room for its longest backoff, or
      never can, the alarm `:oom_no_room` is set, and the child is tried alone when memory stands still.
      A failed start is logged and tried again; three in a row set the alarm `:oom_start_fails`. If
      the child was started by another process (`:already_started`), the hold ends.
      With `:one_for_all` and `:rest_for_one`, siblings that the strategy would restart with the child
      are held too, and stay down when a sibling's crash makes the strategy restart all the rest. A child
      ended while starting is held too, unless the user asked for that start.
      `Supervisor.restart_child/2`, `terminate_child/2` or `delete_child/2` for a held child ends the
      hold.
    * While the level is `:critical`, a `:one_for_one` supervisor may hold a worker (or a unit) instead of
      starting it, at the supervisor's own beginning or after a crash. This happens if the guard has killed
      a worker of the same or a higher priority within the last second: the new worker would be the next
      victim. The priority in the specification or from the supervisor counts; the priority a worker
      declares in `init/1` is not known yet. Protected, temporary and significant children are always
      started, and so is a child the user asks for. A supervisor is always started, and does the same with
      its own children. Give children that must be there at a start a higher priority than possible victims.
    * A child killed `max_kills` times without having lived for `stable_ms` in between is given up: the
      child stays down until `OOM.release/1`. See `OOM.held/0`.
    * When the `:oom` application is stopped, held children come back at once, and the supervisor is a
      plain supervisor from then on. Children given up stay down.
    * Workers below `:high` get a `max_heap_size` (see `t:OOM.max_heap_size/0`), because a growing heap is
      faster than any sampling. A worker killed by this cap is held in the same way. A capped child that
      ends with `:killed` is therefore restarted 50 ms later than under `Supervisor`: by then the VM's
      reports tell whether the cap has killed the child. Any other `:killed` is an ordinary crash, at
      every level. The cap reaches workers that run on `proc_lib` and answer `:sys` (GenServer, Agent,
      `:gen_statem`, `:gen_event`), and a `{Task, fun}` child. A module that calls `Task.start_link/1`
      itself, or a plain `spawn_link`, has no cap unless the process calls `OOM.set_priority/2`; until then
      only the guard's sampling covers the process.
    * A `:protected` worker is never held: after any end, the worker is restarted at once, and the restart
      counts.

  Temporary children are killed and forgotten, as ever.

  ## The tree below

  A walk in the background looks through the tree below (each second while many processes come and go,
  each ten seconds while none do, up to a minute apart while memory stands still, at once when memory
  becomes short). Workers under plain supervisors are registered with the priority of the nearest
  declaration: the worker's own (`OOM.set_priority/1`, `OOM.child_spec/2`), a supervisor's
  (`OOM.child_spec(sup, priority: :low)`), or that of the `OOM.Supervisor`. Such workers are killed with
  the consent of their supervisor, however busy the supervisor is, and no restart is counted:

    * `Supervisor`: the child, with the siblings its strategy takes down, is held and restarted later
    * `DynamicSupervisor` and `:simple_one_for_one`: the child is forgotten, as after
      `DynamicSupervisor.terminate_child/2`, and started again later, with a new pid
    * temporary children (`Task.Supervisor`, ranch, Thousand Island), and processes that are not a child
      of their supervisor: killed, and not started again. A task that would take down the process awaiting
      it (`Task.Supervisor.async/2`) gets the priority of that process when the walk finds the task
    * `Registry`: never killed, because all registered processes would end too

  A held child of a plain supervisor comes back even after `Supervisor.terminate_child/2`, because the
  supervisor reports that call to no process; `Supervisor.delete_child/2` keeps the child away.

  The walk sets no `max_heap_size`. A worker that calls `OOM.set_priority/1` under a supervisor outside
  any `OOM.Supervisor` is killed with the supervisor's consent, too, and held; no walk looks for its
  siblings. With `:one_for_all` and `:rest_for_one`, a plain supervisor starts a held child again when a
  sibling's crash makes the supervisor restart all children.

  ## Workers that end together

  A worker has the priority of the most important process its end would take down:

    * a process linked with the worker that does not trap exits, directly or through further links
    * a process the worker has started
    * a process waiting for the worker in a call or in `Task.await/2`, or reading a stream of tasks that
      the worker belongs to

  If one of these is protected, the worker is not killed. So a `:low` cache that a protected server has
  started with `start_link` is protected. Links count as of the kill; a monitor alone does not count. A
  linked process outside the tree, under a supervisor of its own, counts as protected.

  With `:one_for_all` and `:rest_for_one`, a child has the priority of the most important sibling that
  would end too. A child is not killed if such a sibling is protected, or before the walk in the background
  has found the siblings. A temporary child takes no sibling down. A significant transient child is held,
  which ends no supervisor (see `auto_shutdown`). The end of a significant temporary child may end the
  supervisor, so the child has the priority of the most important worker below that supervisor. A permanent
  supervisor that ends so is held by its own supervisor, and no restart is counted. With
  `:all_significant`, no supervisor ends while another significant child is held (but a plain supervisor
  does when the last running one ends by itself).

  A supervisor below that may restart no child (`max_restarts: 0`) ends with a killed child, as with a crash:
  the child's siblings end, and the supervisor above holds the whole and starts it again later. So what depends
  on the child never keeps the pid of a dead process, and a child there has the priority of the most important
  worker that would end. Where no supervisor above could hold the whole (at the top of the tree), and in a
  `DynamicSupervisor`, only the child is held.

  A worker may start a supervisor of its own, as Broadway and poolboy do. The children of that supervisor are
  workers with the priority of the worker that started them, and are killed and held one by one. What a
  victim has started, linked or not, is ended after `grace_ms`, at the latest: a supervisor started by the
  victim might otherwise wait half a minute for a child that traps exits and grows.

  `OOM.child_spec(sup, unit: true)` makes a subtree one worker with one priority. The memory of all processes
  below counts. The unit is told to leave in order, ended by force after `grace_ms`, held, and brought back
  as a whole. A priority declared inside a unit does not count.

  ## Options under `:oom`

  Defaults for the children; `OOM.child_spec/2` and the worker's own `OOM.set_priority/2` override them. An
  option that is left out comes from the nearest supervisor above that sets it, then from the default.
  `:handle_pressure` is not inherited: it applies to the supervisor's own children only.

    * `:priority` - see `t:OOM.priority/0`. Default: `:normal`
    * `:max_heap_size` - see `t:OOM.max_heap_size/0`. Default: from `config :oom`
    * `:backoff` - `[initial_ms: i, max_ms: m]`. Default: from `config :oom`
    * `:max_kills` - a positive integer or `:infinity`. Default: from `config :oom`
    * `:shed` - the share of its children a supervisor gives back at once from the level `:high` on, see
      `OOM.child_spec/2`. Default: `nil`
    * `:handle_pressure` - whether workers are asked to shrink before a kill, see `OOM.Pressure`.
      Default: `false`
  """

  alias OOM.Child
  alias OOM.Supervisor.{Callback, Server}

  @flags [:strategy, :max_seconds, :max_restarts, :auto_shutdown]

  @typedoc "An option for children; see `OOM.child_spec/2`."
  @type oom_option ::
          {:priority, OOM.priority()}
          | {:max_heap_size, OOM.max_heap_size()}
          | {:backoff, keyword()}
          | {:unit, boolean()}
          | {:max_kills, pos_integer() | :infinity}
          | {:handle_pressure, boolean()}
          | {:shed, {:fraction, number()} | {:fraction, number(), :newest | :largest} | nil}

  @type option :: Supervisor.option() | Supervisor.init_option() | {:oom, [oom_option()]}

  # So that only `alias OOM.Supervisor` has to be added.
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
  Returns the value for a module's `init/1`: the same as `Supervisor.init/2`, and with `:oom` also the options
  under it. Raises `ArgumentError` for a wrong option under `:oom`.
  """
  @spec init([:supervisor.child_spec() | {module(), term()} | module()], [option()]) ::
          {:ok, tuple()}
  def init(children, options) when is_list(children) and is_list(options) do
    {oom, options} = Keyword.pop(options, :oom, [])
    {:ok, {flags, specs}} = otp_init(children, options)
    oom = Child.Options.check!(oom)
    flags = if oom == [], do: flags, else: Map.put(flags, :oom, oom)
    {:ok, {flags, specs}}
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
