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
      (A worker that traps exits gets `:kill` after `grace_ms`.)
    * Such a child is **held**: not restarted, not counted towards `max_restarts`. It is restarted
      after a backoff, once the level is `:normal` again and what it last held fits the headroom
      (or, where it fits nowhere, after the longest backoff once more).
      With `:one_for_all` and `:rest_for_one`, what the strategy would restart with it is held
      with it, and stays down when a sibling's crash makes the strategy restart all the others.
      Asking `Supervisor.restart_child/2`, `terminate_child/2` or `delete_child/2` for a held child
      ends the hold.
    * One that is killed `max_kills` times without having lived for `stable_ms` in between is given
      up: it stays down until `OOM.release/1`. See `OOM.held/0`.
    * When the `:oom` application is stopped, what is held comes back at once, and the supervisor is
      a plain one from then on. What was given up stays down.
    * Its workers get a `max_heap_size` (by default 35 % of the limit), because a process that
      grows its heap is faster than any sampling. One that is killed by it is held in the same
      way. For that a child that ends with `:killed` is restarted up to 50 ms later than under
      `Supervisor`, and while the level is not `:normal` it is taken for a victim. What runs on
      `proc_lib` and answers `:sys` is reached (GenServer, Agent, `:gen_statem`, `:gen_event`), and
      a `{Task, fun}` child. A module that calls `Task.start_link/1` itself, or a plain
      `spawn_link`, is not, unless it calls `OOM.set_priority/2`; until then the guard's sampling
      is all that covers it.

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
      child of their supervisor: killed, and that is all

  `max_heap_size` is not set from outside for what is found so. A worker that calls
  `OOM.set_priority/1` under a supervisor that has not been found yet, or that is not below an
  `OOM.Supervisor`, can be killed, and to that supervisor it is a crash.

  ## What goes together

  With `:one_for_all` and `:rest_for_one` a child is worth as much as the most important of those
  that would go with it, and is not killed where one of them is protected. A significant child that
  is transient is held, which ends no supervisor (see `auto_shutdown`); a temporary one, whose end
  would, goes last.

  `OOM.child_spec(sup, unit: true)` makes a subtree one worker with one priority: what is below it
  counts for it, it is told to leave in order, ended by force after `grace_ms`, held, and comes back
  as a whole.

  ## Options under `:oom`

  Defaults for the children, which `OOM.child_spec/2` and the worker's own `OOM.set_priority/2`
  override:

    * `:priority` - see `t:OOM.priority/0`. Default: `:normal`
    * `:max_heap_size` - see `t:OOM.max_heap_size/0`. Default: from `config :oom`
    * `:backoff` - `[initial_ms: i, max_ms: m]`. Default: from `config :oom`
    * `:max_kills` - a positive integer or `:infinity`. Default: from `config :oom`
    * `:handle_pressure` - whether they are asked to shrink before they would be killed, see
      `OOM.Pressure`. Default: `false`
  """

  alias OOM.Child
  alias OOM.Supervisor.{Callback, Server}

  @flags [:strategy, :max_seconds, :max_restarts, :auto_shutdown]

  @type option :: Supervisor.option() | Supervisor.init_option() | {:oom, [Child.option()]}

  defmacro __using__(opts) do
    quote location: :keep, bind_quoted: [opts: opts] do
      @behaviour Supervisor

      @doc false
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
    start_link(Supervisor.Default, Supervisor.init(children, flags), start_options)
  end

  def start_link(module, init_arg) when is_atom(module), do: start_link(module, init_arg, [])

  @doc "Starts a module-based supervisor, as `Supervisor.start_link/3` does."
  @spec start_link(module(), term(), [Supervisor.option() | {:oom, [Child.option()]}]) ::
          Supervisor.on_start()
  def start_link(module, init_arg, options) when is_atom(module) and is_list(options) do
    {oom, options} = Keyword.pop(options, :oom, [])
    callback_arg = {module, init_arg, Child.check!(oom)}

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
  def init(children, options) do
    {oom, options} = Keyword.pop(options, :oom, [])
    {:ok, {flags, specs}} = Supervisor.init(children, options)
    {:ok, {Map.put(flags, :oom, Child.check!(oom)), specs}}
  end

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
