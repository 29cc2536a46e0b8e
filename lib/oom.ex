defmodule OOM do
  @moduledoc """
  Keeps a BEAM node alive when memory runs out.

  A native thread watches every limit that would kill this VM: each cgroup above it, the host,
  its rlimits. When the tightest of them comes close, OOM hands unused memory back, tells you,
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

  A worker can also speak for itself, from its `init/1`:

      OOM.set_priority(:low)

  ## The ladder

  | level | begins when | what happens |
  |---|---|---|
  | `:normal` | | nothing; held workers come back where there is room for them, here and at every other level |
  | `:elevated` | headroom below twice the floor, or growth reaches the floor in less than 4 s | cached segments go back to the system; figures are gathered more often |
  | `:high` | growth reaches the floor in less than 1 s | `admit?/1` turns `:low` away; those next in line are asked to shrink (`OOM.Pressure`) |
  | `:critical` | headroom below the floor, or growth reaches it in less than 100 ms | `admit?/1` turns `:normal` away, and an `OOM.Supervisor` starts no child by itself that is worth no more than whom the guard has just killed |

  The floor is the headroom below which the guard acts at once: a sixteenth of the limit, at most 24 MiB
  and 1/128 of it. That is 28 MiB under 512 MiB, 56 MiB under 4 GiB. Standing still above it is health,
  however full the node is: nobody is killed, held or turned away for a level alone.

  What is done does not go by the level:

    * Where growth would reach the floor within 300 ms, the throttle slows the workers that grow: they
      stand still (suspended) for 15 to 40 ms, are read, and run for a moment, so that what they take in
      a turn is a part of what is left. A load of binaries or ETS rows that ends above the floor goes through,
      a little later; a worker that loads one large heap is killed where the collection that is due may not fit.
      Workers that wait for messages, or that run and do not grow, are left alone; protected workers and
      supervisors are never touched.
    * At the floor, or where growth will have passed it before a kill takes effect, the guard trims and
      kills, until the headroom is half as much again as the floor. Whom, and when not:

  | | who |
  |---|---|
  | never | protected workers, supervisors, whoever would take one of these along by strategy, link, call or await; one whose figure is not known, or that holds less than `min_victim_bytes` |
  | first | in the lowest priority first: workers seen to grow in two looks, dynamic children before static ones, the largest first |
  | then | steady workers below `:normal`, with less than three quarters of the floor left, where they cover what is needed |
  | last | other steady workers, once an episode: for the growth of one that is worth more, where they cover what is needed and a second of it; or where nothing grows and half of the floor is gone |

  Growth that is nobody's (another process of the cgroup, the VM itself, a library) kills nobody of
  `:normal` and above; when nothing is left that would help, `on_exhausted` runs. A worker that grows and
  cannot be ended, because a protected one would end with it, stands still at the floor until there is
  room.

  Victims exit with `{:shutdown, :memory_pressure}`. Under an `OOM.Supervisor` they are held: not
  restarted into the pressure, and not counted towards `max_restarts`. They come back one by one,
  after a backoff, as soon as what they last held fits the headroom above the floor, at whatever level.
  Where there can be no room, or was none for the longest backoff, an error is logged, the alarm
  `{:oom_no_room, {supervisor, id}}` is set until it has lived for `stable_ms`, and it is tried alone
  when memory stands still (alarms where SASL runs); where its start fails three times in a row, the alarm is
  `{:oom_start_fails, {supervisor, id}}`, until it starts. One that is killed `max_kills` times without
  having lived for `stable_ms` in between is given up: it stays down, an error is logged and the alarm
  `{:oom_given_up, {supervisor, id}}` is set until somebody asks for it, terminates or deletes
  it, or its supervisor or the application ends.
  `held/0` lists who is down, and `release/1` brings one back by hand.

  ## Configuration

  All of it is optional. `config :oom` takes:

  #{OOM.Config.docs()}

  Unknown options and wrong values raise `ArgumentError` when the application starts.
  """

  alias OOM.{
    Asker,
    Branch,
    Child,
    Config,
    Heap,
    HeapCaps,
    InitialCall,
    Level,
    Native,
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
  Who dies first. `:low` is 250, `:normal` 500, `:high` 750; any integer from 0 to 1000 may stand
  for a priority of your own, and a higher one dies later. `:protected` is never killed, nor is one whose
  end would take a protected one along (see `OOM.Supervisor`).
  """
  @type priority :: :low | :normal | :high | :protected | 0..1000

  @typedoc "How close the tightest limit is; see the ladder."
  @type level :: :normal | :elevated | :high | :critical

  @typedoc """
  What the heap of one process may grow to: bytes, a percentage of the lowest limit, or no bound. The
  VM checks it at each garbage collection and kills the process that would pass it, before the memory
  is taken. It counts the heap with its garbage and, during a collection, room for a copy of all that. A
  list that only grows so passes it at about two fifths of it; one that is rewritten all the time may
  at a fifth or less. Off-heap binaries do not count, nor do messages that wait: workers' mailboxes are
  kept off their heaps.

  A percentage follows the limit when that moves, up and down, in workers that take `:sys` messages and
  are back in their loop. It is never set below six times the heap there is then, which a collection
  may need though nothing has grown.

  What was asked for holds for every priority. The default (`config :oom, max_heap_size:`) is not for
  `:high` and above, nor for a worker that would take one of these along; it goes and comes with the
  priority. And a worker that is large while memory grows slowly, or stands still, has six times what
  it holds by default: the cap is there for what grows faster than it can be measured.

  `%{size: size, include_shared_binaries: true}` counts the off-heap binaries that the process refers to
  as well, as the VM's flag of that name does. That reaches what nothing else does: a loop that takes
  large binaries within one timeslice, such as `[:crypto.strong_rand_bytes(1_048_576) | list]`, as the VM
  looks whenever it collects. A binary counts once for each reference that was received or made, in
  everyone who refers to it, and garbage counts until it is collected. So it is for a worker of which is
  known how much it may hold. It needs OTP 26. On OTP 25 the VM takes no notice of it: the cap is one of
  the heap alone then, and the log says so once.
  """
  @type max_heap_size :: heap_size() | %{size: heap_size(), include_shared_binaries: boolean()}

  @typedoc "See `t:max_heap_size/0`."
  @type heap_size :: pos_integer() | {:percent_of_limit, number()} | :infinity

  @typedoc "Run each time nothing is left that would help."
  @type on_exhausted :: (Snapshot.t() -> term()) | {module(), atom(), [term()]} | nil

  @doc """
  Declares what the calling worker is worth.

  Usually called in `init/1`. It may be called again at any time; the last call counts, and it
  wins over what the supervisor was told. The worker's mailbox is kept off its heap from then on
  (`message_queue_data`), as `OOM.Supervisor` does for its children: a collection that copies a
  flooded mailbox is not interrupted by a kill.

  A supervisor that calls it in its `init/1` is no worker: its priority holds for what is below it.

  ## Options

    * `:max_heap_size` - see `t:max_heap_size/0`. Without it, the flag stays as it is
    * `:handle_pressure` - `true`: the worker is sent `{:oom_pressure, %OOM.Pressure{}}` before it
      would be killed, and may shrink. `false`: no longer. Without it, as it was: it is not

  `set_priority(pid, priority)` is the same from outside, for workers only.

  Raises `ArgumentError` for another priority or option, for the pid of a supervisor or of no live
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

    # It would be killed with all that is below it.
    if Tree.supervisor?(pid) or match?({:supervisor, _, _}, InitialCall.of(pid)) do
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

    # In the init/1 of a supervisor, it holds for what is below.
    if match?({:supervisor, _, _}, Process.get(:"$initial_call")),
      do: Tree.Start.declare(rank),
      else: Workers.declare(self(), rank)

    said = if(before != rank, do: [priority: rank], else: []) ++ cap(max_heap_size)
    if said != [], do: Children.tell(self(), said)

    # In a unit there is nobody to ask.
    if handle_pressure? != nil and Workers.member?(self()),
      do: Asker.listens(self(), handle_pressure?)

    # At last, so that none of this is what passes it.
    if max_heap_size != nil,
      do: Heap.cap_self(HeapCaps.declare(max_heap_size), Heap.binaries?(max_heap_size))

    :ok
  end

  defp cap(nil), do: []
  defp cap(max_heap_size), do: [max_heap_size: max_heap_size]

  @doc """
  A child specification, as `Supervisor.child_spec/2` makes it, with what OOM should know.

  ## Options

  Those of `Supervisor.child_spec/2`, and:

    * `:priority` - see `t:priority/0`. Default: what the supervisor says, else `:normal`
    * `:max_heap_size` - see `t:max_heap_size/0`. Default: what the supervisor says, else from
      `config :oom`
    * `:backoff` - `[initial_ms: i, max_ms: m]`, how long the child is held at least when it was
      killed. Default: the same
    * `:max_kills` - after how many kills it is given up: a positive integer or `:infinity`.
      Default: the same
    * `:handle_pressure` - whether it is sent `{:oom_pressure, %OOM.Pressure{}}` before it would be
      killed, and may shrink; see `OOM.Pressure`. Default: what the supervisor says, else `false`
    * `:shed` - of a supervisor: the share of its children that it gives back at once from the level
      `:high` on, when one of them would be the next victim; once a second at most. `{:fraction, 0.5}`
      ends the newest half of those of the lowest priority, `{:fraction, 0.5, :largest}` the half
      that holds most; nobody, where these hold less than `min_victim_bytes` each on average.
      Default: `nil`, one victim after the other at `:critical`
    * `:unit` - `true` makes a supervisor and all that is below it one worker, which is killed and
      comes back as a whole. What is said of a priority inside it does not count. Default: `false`

  A supervisor's `:priority`, `:backoff`, `:max_kills` and `:shed` hold for all that is below it, unless
  something is said there, too.

  The result can be used under any supervisor; under OTP's and Elixir's the child is held there, too.

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
  How close the tightest limit is.

  Reads one atomic word; takes no lock and sends no message. `:normal` while no limit is known or
  the `:oom` application does not run.

      iex> OOM.level() in [:normal, :elevated, :high, :critical]
      true
  """
  @spec level() :: level()
  defdelegate level(), to: Level, as: :get

  @doc """
  Whether new work of this class (by default `:normal`) should be let in.

  `:low` is turned away from the level `:high` on, `:normal` at `:critical`, `:high` never. Costs
  what `level/0` costs.

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
  What is known about memory now: the limit that binds, usage, headroom, growth. See
  `OOM.Snapshot`.

  It is the watcher's last sample, at most `sample_interval_ms[:max]` old; `age_us` tells.
  """
  @spec snapshot() :: Snapshot.t()
  def snapshot do
    with watcher when watcher != nil <- Tables.watcher(),
         report when is_map(report) <- Native.watcher_report(watcher) do
      Snapshot.from_report(report)
    else
      _ -> %Snapshot{}
    end
  end

  @doc """
  The workers that hold most, the heaviest first: at most `count` of them, as `OOM.Usage`.

  Asks no process: these are the figures the guard ranks by, gathered in the background. Looks at
  each registered worker once. Empty where the `:oom` application does not run.

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
  Supervisors with what is below them, as `OOM.Branch`, the heaviest first: what each subtree holds,
  its priority, its `count` heaviest workers, and what is held.

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
  Sends `{:oom, level, %OOM.Snapshot{}}` to the calling process on each change of level, once
  each, until `unsubscribe/0` or its end.

  Subscribing twice is the same as once. Exits where the `:oom` application does not run.
  """
  @spec subscribe() :: :ok
  defdelegate subscribe(), to: Notifier

  @doc "Ends a subscription; there need not be one. Exits where the `:oom` application does not run."
  @spec unsubscribe() :: :ok
  defdelegate unsubscribe(), to: Notifier

  @doc """
  What is held: killed because of memory, or not started because of it, and not yet back, as `OOM.Held`
  tells of each. Those that
  come back first are first, those that are given up last.

  Reads a table and asks nobody. Empty where the `:oom` application does not run.

      iex> is_list(OOM.held())
      true
  """
  @spec held() :: [OOM.Held.t()]
  defdelegate held(), to: OOM.Holds.List, as: :all

  @doc """
  Brings a held child back by hand: now, whatever the level is and whether it fits. Its kills are
  forgotten, and it is no longer given up. With it comes what is down together with it.

  Takes what `held/0` lists, or `{supervisor, id}` with the pid or the name of its supervisor and the
  id of the child. Returns when it is started, or where it is on its way already, when that is done.

    * `{:error, :not_held}` - there is no such supervisor, or it holds no such child
    * `{:error, reason}` - its supervisor could not start it, for this reason; it is held again and
      tried again after its backoff

  Raises `ArgumentError` for anything else, for a supervisor of another node, and where the `:oom`
  application does not run. Exits where what releases is just being started anew after a crash.

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

  # All of them are checked before any takes effect.
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
