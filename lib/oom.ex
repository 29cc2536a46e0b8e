defmodule OOM do
  @moduledoc """
  Keeps a BEAM node alive when memory runs out.

  A native thread watches every limit that would kill this VM: each cgroup above the VM, the host,
  the rlimits. When the tightest limit comes close, OOM hands unused memory back, tells you,
  and then kills the least important workers, only as many as needed, and holds them back until
  there is room again.

      defmodule MyApp.Application do
        use Application

        def start(_type, _args) do
          children = [
            OOM.child_spec(MyApp.Billing, priority: :protected),
            MyApp.Cache,
            OOM.child_spec({MyApp.Importer, []}, priority: :low)
          ]

          OOM.Supervisor.start_link(children, strategy: :one_for_one)
        end
      end

  A worker can also declare its own priority, in `init/1`:

      OOM.set_priority(:low)

  ## The ladder

  | level | begins when | what happens |
  |---|---|---|
  | `:normal` | | nothing; held workers come back where there is room for them, here and at every other level |
  | `:elevated` | headroom below twice the floor, or the growth of 2 s reaches the floor in less than 4 s | cached segments go back to the system; figures are gathered more often |
  | `:high` | the growth of 0.5 s reaches the floor in less than 1 s | `admit?/1` turns `:low` away; the next victims are asked to shrink (`OOM.Pressure`) |
  | `:critical` | headroom below the floor, or the growth of 100 ms would reach the floor in another 100 ms | `admit?/1` turns `:normal` away, and an `OOM.Supervisor` starts no child by itself whose priority is no higher than that of a worker the guard has just killed |

  Growth raises a level only where it has lasted for a part of the time foretold: what a node in use takes and gives back
  again is no pressure.

  The floor is the headroom below which the guard acts at once: a sixteenth of the limit, but at most 24 MiB
  plus 1/128 of the limit. That is 28 MiB under 512 MiB, 56 MiB under 4 GiB. A node standing still above the
  floor is healthy, however full: no worker is killed, held or turned away for a level alone.

  The guard's actions do not follow the level:

    * Where growth would reach the floor within 300 ms, the throttle slows the growing workers. The throttle
      suspends them for 15 to 40 ms, measures them, and lets them run for a moment, so that a turn takes only
      a part of the remaining headroom. A load of binaries or ETS rows that ends above the floor goes through,
      a little later; a worker loading a large heap is killed where the next collection may not fit.
      Workers waiting for messages, or running without growth, are left alone; protected workers and
      supervisors are never touched.
    * At the floor, or where growth will have passed the floor before a kill takes effect, the guard trims
      and kills, until the headroom is half as much again as the floor. The order of victims:

  | | victims |
  |---|---|
  | never | protected workers, supervisors, workers whose end would take either along by strategy, link, call or await; workers without a known figure, or smaller than `min_victim_bytes` |
  | first | in the lowest priority first: workers seen to grow in two looks, dynamic children before static ones, the largest first |
  | then | steady workers below `:normal`, with less than three quarters of the floor left, where the victims cover the need |
  | last | other steady workers, once an episode: for the growth of a worker of higher priority, where the victims cover the need and a second of growth; or where nothing grows and half of the floor is gone |

  Growth of another process in the cgroup, of the VM itself or of a library kills no worker of `:normal` and
  above; when no victim is left that would help, `on_exhausted` runs. A growing worker that cannot be
  ended, because a protected process would end with it, stays suspended at the floor until there is room.

  Victims exit with `{:shutdown, :memory_pressure}`. Under an `OOM.Supervisor` victims are held: not
  restarted into the pressure, and not counted towards `max_restarts`. Held children come back one by one,
  at any level, after a backoff, as soon as a child's last size fits the headroom above twice the floor. Errors are
  logged, and set an alarm where SASL runs:

    * `{:oom_no_room, {supervisor, id}}` - there can be no room for the child, or there was none for the
      longest backoff. The child is started alone when memory stands still. The alarm ends when the child has
      lived for `stable_ms`
    * `{:oom_start_fails, {supervisor, id}}` - the start has failed three times in a row. The alarm ends with
      a start that succeeds
    * `{:oom_given_up, {supervisor, id}}` - the child was killed `max_kills` times without having lived for
      `stable_ms` in between, and stays down. The alarm ends when the child is released, restarted, terminated
      or deleted by hand, or when the supervisor or the application ends

  `held/0` lists the held children, and `release/1` brings a child back by hand.

  ## Configuration

  All options are optional. `config :oom` takes:

  #{OOM.Config.docs()}

  Unknown options and wrong values raise `ArgumentError` when the application starts.
  """

  alias OOM.{
    Asker,
    Bookkeeper,
    Branch,
    Child,
    Config,
    Heap,
    HeapCaps,
    InitialCall,
    Level,
    Notifier,
    Priority,
    Snapshot,
    Tables,
    Tree,
    Usage,
    Workers
  }

  alias OOM.Supervisor.Children

  @typedoc """
  The order of victims. `:low` is 250, `:normal` 500, `:high` 750; any integer from 0 to 1000 may stand
  for a priority of your own, and a higher priority dies later. A `:protected` worker is never killed, nor
  is a worker whose end would take a protected worker along (see `OOM.Supervisor`).
  """
  @type priority :: :low | :normal | :high | :protected | 0..1000

  @typedoc "The distance to the tightest limit, as a step of the ladder in `OOM`."
  @type level :: :normal | :elevated | :high | :critical

  @typedoc """
  The cap of a process's heap: bytes, a percentage of the lowest limit, or `:infinity`. The VM checks the
  cap at each garbage collection, and kills a process about to pass the cap before the memory is taken. The
  heap counts with its garbage and, during a collection, with room for a copy of both. So a list that only
  grows passes the cap at about two fifths of the size; a list rewritten all the time may pass at a fifth or
  less. Off-heap binaries do not count, nor do waiting messages: workers' mailboxes are kept off the heap.

  A percentage follows the limit up and down, in workers that take `:sys` messages and are back in their
  loop. Such a cap is never set below six times the present heap, which a collection may need without any
  growth.

  A cap asked for holds for every priority. The default (`config :oom, max_heap_size:`) does not apply to
  `:high` and above, nor to a worker that would take such a worker along; the default goes and comes with
  the priority. While memory grows slowly, or stands still, the default cap of a large worker is six times
  its size: the cap is there for growth too fast to be measured.

  `%{size: size, include_shared_binaries: true}` also counts the off-heap binaries referred to by the
  process, as the VM's flag of that name does. The VM checks at each collection, so this cap alone catches a
  loop that takes large binaries within a timeslice, such as
  `[:crypto.strong_rand_bytes(1_048_576) | list]`. A binary counts once for each reference received or made,
  in every process that refers to it, and garbage counts until collected. So give the option to workers of
  known size. Needs OTP 26: on OTP 25 the VM ignores the flag, the cap is for the heap alone, and a log
  message says so once.
  """
  @type max_heap_size :: heap_size() | %{size: heap_size(), include_shared_binaries: boolean()}

  @typedoc "See `t:max_heap_size/0`."
  @type heap_size :: pos_integer() | {:percent_of_limit, number()} | :infinity

  @typedoc "A callback, called each time no victim is left that would help."
  @type on_exhausted :: (Snapshot.t() -> term()) | {module(), atom(), [term()]} | :stop | nil

  @doc """
  Declares the priority of the calling worker.

  Usually called in `init/1`, and again at any time; the last call counts, and wins over the supervisor's
  priority. From then on the worker's mailbox is kept off the heap (`message_queue_data`), as
  `OOM.Supervisor` does for its children: a collection that copies a flooded mailbox cannot be interrupted by
  a kill.

  In the `init/1` of a supervisor, the call sets the priority for all workers below; the supervisor is no
  worker.

  ## Options

    * `:max_heap_size` - see `t:max_heap_size/0`. Default: the flag stays unchanged
    * `:handle_pressure` - whether the worker is sent `{:oom_pressure, %OOM.Pressure{}}` before a kill, and
      may shrink. Default: as before, which is `false` at first

  `set_priority(pid, priority)` declares the priority of another process, for workers only.

  Raises `ArgumentError` for an unknown priority or option, for the pid of a supervisor or of no live
  process of this node, and where the `:oom` application does not run.

      iex> OOM.set_priority(:normal)
      :ok

      iex> OOM.set_priority(-1)
      ** (ArgumentError) expected priority to be :low, :normal, :high, :protected or an integer from 0 to 1000, got: -1
  """
  @spec set_priority(priority(), max_heap_size: max_heap_size(), handle_pressure: boolean()) ::
          :ok
  @spec set_priority(pid(), priority()) :: :ok
  def set_priority(priority, options \\ [])

  def set_priority(pid, priority) when is_pid(pid) do
    rank = Priority.rank!(priority)
    _ = running!()

    unless node(pid) == node() and Process.alive?(pid) do
      raise ArgumentError, "expected a live process of this node, got: #{inspect(pid)}"
    end

    # A supervisor registered as a worker would be killed with all its children.
    call = InitialCall.of(pid)

    if Tree.supervisor?(pid) or match?({:supervisor, _, _}, call) or InitialCall.special?(call) do
      raise ArgumentError,
            "expected a worker, got the supervisor #{inspect(pid)}; its priority is said where it " <>
              "is started (OOM.child_spec/2), or by itself, in its init/1"
    end

    before = Workers.rank(pid)
    Workers.declare(pid, rank)
    if before != rank, do: Children.tell(pid, priority: rank)
    :ok
  end

  def set_priority(priority, options) do
    rank = Priority.rank!(priority)
    _ = running!()
    {max_heap_size, handle_pressure?} = check_own!(options)
    Heap.mailbox_off_heap()

    before = Workers.rank(self())

    # In the init/1 of a supervisor, the priority holds for all workers below.
    if match?({:supervisor, _, _}, Process.get(:"$initial_call")),
      do: Tree.Start.declare(rank),
      else: Workers.declare(self(), rank)

    said = if(before != rank, do: [priority: rank], else: []) ++ cap(max_heap_size)
    if said != [], do: Children.tell(self(), said)

    # Inside a unit the process is no worker, and gets no message.
    if handle_pressure? != nil and Workers.member?(self()),
      do: Asker.listens(self(), handle_pressure?)

    # The cap comes last, so that none of the work here passes the cap.
    if max_heap_size != nil,
      do: Heap.cap_self(HeapCaps.declare(max_heap_size), Heap.binaries?(max_heap_size))

    :ok
  end

  defp cap(nil), do: []
  defp cap(max_heap_size), do: [max_heap_size: max_heap_size]

  @doc """
  Guards the workers below a supervisor that others have started, without a change there.

  `supervisor` is OTP's or Elixir's, as a pid, a registered name, or `{:application, name}` for the top
  supervisor of an application. The workers below are found within one to ten seconds, and at once when
  memory becomes short; they are ranked, killed with the consent of their supervisors, held and brought back as
  below an `OOM.Supervisor`. A name that is not registered yet is waited for, and adopted again when another
  process has the name. `config :oom, adopt: [rabbit_sup: [priority: :low]]` does the same at the start.

  ## Options

    * `:priority` - for all workers below. Default: `:normal`
    * `:priorities` - `[{key, priority}]`, for single children and all that is below them: the first key that is
      a child's id, registered name or module decides. Default: `[]`
    * `:backoff`, `:max_kills` - as in `child_spec/2`
    * `:exit_reason` - `:kill` ends victims at once, for workers that are not started again after an orderly
      end. Default: `:shutdown`, an order with the reason `{:shutdown, :memory_pressure}`

  Raises `ArgumentError` for an unknown option, for an `OOM.Supervisor` or a process that is no supervisor of
  OTP or Elixir, and where the `:oom` application does not run.
  """
  @spec adopt(pid() | atom() | {:application, atom()}, keyword()) :: :ok
  def adopt(supervisor, options \\ []) do
    _ = running!()
    Tree.Adoption.adopt(supervisor, options)
  end

  @doc """
  Returns a child specification, as `Supervisor.child_spec/2` does, with options for OOM.

  ## Options

  The options of `Supervisor.child_spec/2`, and:

    * `:priority` - see `t:priority/0`. Default: the supervisor's, else `:normal`
    * `:max_heap_size` - see `t:max_heap_size/0`. Default: the supervisor's, else from `config :oom`
    * `:backoff` - `[initial_ms: i, max_ms: m]`, for how long the child is held at least after a kill.
      Default: the supervisor's, else from `config :oom`
    * `:max_kills` - the number of kills after which the child is given up: a positive integer or
      `:infinity`. Default: the supervisor's, else from `config :oom`
    * `:handle_pressure` - whether the child is sent `{:oom_pressure, %OOM.Pressure{}}` before a kill,
      and may shrink; see `OOM.Pressure`. Default: the supervisor's, else `false`
    * `:shed` - for a supervisor: the share of its children shed at once from the level `:high` on, when a
      child would be the next victim; once a second at most. `{:fraction, 0.5}` ends the newest half of
      the children of the lowest priority, `{:fraction, 0.5, :largest}` the largest half. No child is shed
      where the shed children would hold less than `min_victim_bytes` each on average.
      Default: `nil`, one victim after another when memory must be freed
    * `:unit` - `true` makes a supervisor and its whole subtree a single worker, killed and brought back as
      a whole. Priorities declared inside do not count. Default: `false`

  A supervisor's `:priority`, `:backoff`, `:max_kills` and `:shed` hold for the whole subtree, unless
  overridden there.

  The result can be used under any supervisor; the child is held under OTP's and Elixir's, too.

      iex> %{id: Agent, restart: :transient} =
      ...>   OOM.child_spec({Agent, fn -> 0 end}, priority: :low, restart: :transient)

  Raises `ArgumentError` for a wrong option.
  """
  @spec child_spec(Supervisor.child_spec() | {module(), term()} | module(), keyword()) ::
          Supervisor.child_spec()
  def child_spec(child, options) do
    {ours, theirs} = Child.Options.split!(options)
    child |> Supervisor.child_spec(theirs) |> Child.Spec.wrap(ours)
  end

  @doc """
  Returns the level: how close the tightest limit is.

  Reads one atomic word; takes no lock and sends no message. `:normal` while no limit is known or
  the `:oom` application does not run.

      iex> OOM.level() in [:normal, :elevated, :high, :critical]
      true
  """
  @spec level() :: level()
  defdelegate level(), to: Level, as: :get

  @doc """
  Tells whether new work of this class (by default `:normal`) should be let in: admission control.

  `:low` is turned away from the level `:high` on, `:normal` at `:critical`, `:high` never. Costs
  as much as `level/0`.

      iex> OOM.admit?(:high)
      true

  Raises `ArgumentError` for another class.
  """
  @spec admit?(:low | :normal | :high) :: boolean()
  def admit?(class \\ :normal)
  def admit?(:high), do: true
  def admit?(:normal), do: level() != :critical
  def admit?(:low), do: level() in [:normal, :elevated]

  def admit?(other) do
    raise ArgumentError, "expected class to be :low, :normal or :high, got: #{inspect(other)}"
  end

  @doc """
  Returns the state of memory: the limit that binds, usage, headroom, growth, and whose the memory is. See
  `OOM.Snapshot`.

  The figures are the watcher's last sample, at most `sample_interval_ms[:max]` old; see `age_us`. The ledger
  is at most a second older, or, with very many workers, fifty times as old as it takes to make.
  """
  @spec snapshot() :: Snapshot.t()
  def snapshot do
    snapshot = Snapshot.now()
    %{snapshot | ledger: Bookkeeper.ledger(snapshot)}
  end

  @doc """
  Returns the largest workers, the largest first: at most `count`, as `OOM.Usage`.

  Asks no process: the guard ranks by the same figures, gathered in the background. Looks at each
  registered worker once. Empty where the `:oom` application does not run.

      iex> OOM.set_priority(:low)
      iex> [%OOM.Usage{priority: _, bytes: _} | _] = OOM.top(3)

  Raises `ArgumentError` where `count` is no positive integer.
  """
  @spec top(pos_integer()) :: [Usage.t()]
  def top(count \\ 10) do
    positive!(:count, count)
    if Tables.config(), do: Usage.top(count), else: []
  end

  @doc """
  Returns the supervisors with their subtrees, as `OOM.Branch`, the heaviest first: the size of each
  subtree, the priority, the `count` heaviest workers, and the held children.

  As with `top/1`, no process is asked. Workers below plain supervisors are found in the background,
  within a second to ten, or at once under pressure.

      iex> is_list(OOM.tree())
      true

  Raises `ArgumentError` where `count` is no positive integer.
  """
  @spec tree(pos_integer()) :: [Branch.t()]
  def tree(count \\ 10) do
    positive!(:count, count)
    if Tables.config(), do: Branch.all(count), else: []
  end

  @doc """
  Sends `{:oom, level, %OOM.Snapshot{}}` to the calling process once for each change of level, until
  `unsubscribe/0` or the end of the process.

  Subscribing twice is the same as once. Exits where the `:oom` application does not run.
  """
  @spec subscribe() :: :ok
  defdelegate subscribe(), to: Notifier

  @doc "Ends a subscription; there need not be one. Exits where the `:oom` application does not run."
  @spec unsubscribe() :: :ok
  defdelegate unsubscribe(), to: Notifier

  @doc """
  Returns the held children, as `OOM.Held`: killed because of memory, or not started at `:critical`, and not
  yet back. The next child to come back is first; children given up follow those that may come back.

  Reads a table and asks no process. Empty where the `:oom` application does not run.

      iex> is_list(OOM.held())
      true
  """
  @spec held() :: [OOM.Held.t()]
  defdelegate held(), to: OOM.Holds.List, as: :all

  @doc """
  Brings a held child back by hand: now, at any level and at any size. The child's kills are forgotten, and
  a child given up no longer is. Children down together with the child come back, too.

  Takes an entry of `held/0`, or `{supervisor, id}` with the pid or the name of the supervisor and the id of
  the child. Returns when the child is started; where a release is under way already, when that release ends.

    * `{:error, :not_held}` - there is no such supervisor, or the supervisor holds no such child
    * `{:error, reason}` - the supervisor could not start the child, for this reason; the child is held
      again and tried again after the backoff

  Raises `ArgumentError` for anything else, for a supervisor of another node, and where the `:oom`
  application does not run. Exits where the releasing process is just restarting after a crash.

      iex> OOM.release({self(), :importer})
      {:error, :not_held}
  """
  @spec release(
          OOM.Held.t()
          | {pid() | atom() | {:global, term()} | {:via, module(), term()}, id :: term()}
        ) :: :ok | {:error, term()}
  def release(held) do
    _ = running!()
    OOM.Holds.List.release(held)
  end

  # All options are checked before any takes effect.
  defp check_own!(options) do
    unless Keyword.keyword?(options) do
      raise ArgumentError, "expected options to be a keyword list, got: #{inspect(options)}"
    end

    case Keyword.drop(options, [:max_heap_size, :handle_pressure]) do
      [] ->
        size = Keyword.get(options, :max_heap_size, nil)
        handle? = Keyword.get(options, :handle_pressure, nil)
        size = if size != nil, do: Config.max_heap_size!(size)
        if handle? != nil, do: Config.handle_pressure!(handle?)
        {size, handle?}

      unknown ->
        raise ArgumentError,
              "unknown option, expected :max_heap_size or :handle_pressure, " <>
                "got: #{inspect(unknown)}"
    end
  end

  defp positive!(_name, number) when is_integer(number) and number > 0, do: :ok

  defp positive!(name, other) do
    raise ArgumentError, "expected #{name} to be a positive integer, got: #{inspect(other)}"
  end

  defp running! do
    Tables.config() || raise ArgumentError, "the :oom application is not started"
  end
end
