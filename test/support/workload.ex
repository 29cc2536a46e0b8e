defmodule OOM.Test.Workload do
  @moduledoc false
  # Runs inside a limited VM: workers that grow on request, and a recorder of starts, ends with
  # reasons, and messages about the level, in order.

  alias OOM.Test.{Healthy, Patience}

  defmodule Worker do
    @moduledoc false
    use GenServer

    # The worker's declarations.
    @own [:handle_pressure, :max_heap_size]

    def start_link({name, options}),
      do: GenServer.start_link(__MODULE__, {name, options})

    @impl true
    def init({name, options}) do
      if options[:priority],
        do: OOM.set_priority(options[:priority], Keyword.take(options, @own))

      Process.put(:name, name)
      if options[:trap_exit], do: Process.flag(:trap_exit, true)
      OOM.Test.Workload.Recorder.started(name)
      {:ok, {options, for(n <- 1..Keyword.get(options, :mib, 0)//1, do: mib(n))}}
    end

    defp mib(n), do: <<n>> |> :binary.copy(1_024) |> :binary.copy(1_024)

    # In whole chunks: byte by byte takes an emulator longer than a leak may.
    @chunk :binary.copy(<<1>>, 1_024)
    defp binary(bytes), do: :binary.copy(@chunk, max(div(bytes, 1_024), 1))

    @impl true
    def handle_call(:ping, _from, state), do: {:reply, :pong, state}
    def handle_call(:state, _from, {_, data} = state), do: {:reply, length(data), state}

    @impl true
    def handle_cast({:grow, :list, bytes}, {options, data}),
      do: {:noreply, {options, [Enum.to_list(1..div(bytes, 16)) | data]}}

    def handle_cast({:grow, :binary, bytes}, {options, data}),
      do: {:noreply, {options, [binary(bytes) | data]}}

    def handle_cast({:grow, :table, bytes}, {options, data}) do
      table = Process.get(:table) || :ets.new(:table, [:private])
      Process.put(:table, table)
      row = List.duplicate(0, 1_000)
      for i <- 1..max(div(20 * bytes, 16_000), 1), do: :ets.insert(table, {{i, make_ref()}, row})
      {:noreply, {options, data}}
    end

    # What no heap shows, or only a part.
    def handle_cast({:grow, :parts, bytes}, {options, data}),
      do: {:noreply, {options, [binary_part(binary(bytes), 0, 100) | data]}}

    def handle_cast({:grow, :timers, bytes}, {options, data}) do
      Process.send_after(self(), {:due, Enum.to_list(1..div(bytes, 16))}, 3_600_000)
      {:noreply, {options, data}}
    end

    def handle_cast(:drop, {options, _}), do: {:noreply, {options, []}, {:continue, :collect}}

    # Grows in one call, without ever returning to the loop.
    def handle_cast({:run_away, bytes}, {options, _}),
      do: {:noreply, {options, Enum.to_list(1..div(bytes, 16))}}

    @impl true
    def handle_continue(:collect, state) do
      :erlang.garbage_collect()
      {:noreply, state}
    end

    @impl true
    def handle_info({:oom_pressure, pressure}, {options, data}) do
      send(OOM.Test.Workload.Recorder, {:asked, Process.get(:name), pressure})

      if options[:shrinks],
        do: {:noreply, {options, []}, {:continue, :collect}},
        else: {:noreply, {options, data}}
    end

    def handle_info(_, state), do: {:noreply, state}
  end

  # A process that traps exits and ignores exit signals.
  defmodule Stubborn do
    @moduledoc false
    def start_link(name) do
      {:ok,
       :proc_lib.spawn_link(fn ->
         Process.flag(:trap_exit, true)
         OOM.set_priority(:low)
         OOM.Test.Workload.Recorder.started(name)
         loop([])
       end)}
    end

    defp loop(data) do
      receive do
        {:"$gen_cast", {:grow, _, bytes}} -> loop([:binary.copy(<<1>>, bytes) | data])
        {:"$gen_cast", :drop} -> :erlang.garbage_collect() && loop([])
        _ -> loop(data)
      end
    end
  end

  defmodule Recorder do
    @moduledoc false
    use GenServer

    def start, do: GenServer.start(__MODULE__, nil, name: __MODULE__)

    # From the moment of the start: on a busy machine the recorder gets the message later.
    def started(name),
      do: send(__MODULE__, {:started, name, self(), OOM.snapshot(), now()})

    @impl true
    def init(nil) do
      :ok = OOM.subscribe()
      # Events must come in order, on a busy VM too.
      Process.flag(:priority, :max)
      {:ok, %{names: %{}, known: %{}, events: []}}
    end

    @impl true
    def handle_call(:events, _from, state), do: {:reply, Enum.reverse(state.events), state}

    @impl true
    # For a returning worker the snapshot shows the room at the time.
    def handle_info({:started, name, pid, snapshot, at}, state) do
      Process.monitor(pid)
      back? = is_map_key(state.known, name)
      names = Map.put(state.names, pid, name)
      state = %{state | names: names, known: Map.put(state.known, name, true)}
      state = note(state, {:started, name, at})
      {:noreply, if(back?, do: note(state, {:room, snapshot}), else: state)}
    end

    def handle_info({:DOWN, _, _, pid, reason}, state) do
      {name, names} = Map.pop(state.names, pid)
      state = note(%{state | names: names}, {:ended, name, reason, now()})

      # A process that has ended tells its monitors one by one, so the order of messages says
      # nothing about living workers.
      if match?({:normal, _}, name),
        do:
          {:noreply,
           note(state, {:alive, for({pid, name} <- names, Process.alive?(pid), do: name)})},
        else: {:noreply, state}
    end

    def handle_info({:oom, level, snapshot}, state),
      do: {:noreply, note(state, {:level, level, snapshot, now()})}

    def handle_info({:asked, name, pressure}, state),
      do: {:noreply, note(state, {:asked, name, pressure, now()})}

    def handle_info({:exhausted, snapshot}, state),
      do: {:noreply, note(state, {:exhausted, snapshot, now()})}

    defp note(state, event), do: %{state | events: [event | state.events]}
    defp now, do: System.monotonic_time(:millisecond)
  end

  @doc """
  Starts the recorder, and an `OOM.Supervisor` with a worker for each `{name, options}`. Options
  of a worker: `:mib` taken at its start, `:priority`, and with it `:handle_pressure` and
  `:max_heap_size`, `:trap_exit`, `:stubborn`, and `:shrinks` to drop everything when asked.
  """
  @spec start([{term(), keyword()}], keyword()) :: pid()
  def start(workers, options) do
    {:ok, _} = Recorder.start()
    parent = self()

    # The supervisor must outlive the call that starts it.
    {_, ref} =
      spawn_monitor(fn ->
        {:ok, supervisor} =
          workers
          |> Enum.map(&spec/1)
          |> OOM.Supervisor.start_link(options ++ [strategy: :one_for_one, max_restarts: 0])

        send(parent, {:supervisor, supervisor})
        Process.unlink(supervisor)
      end)

    receive do
      {:supervisor, supervisor} ->
        Process.demonitor(ref, [:flush])
        supervisor

      {:DOWN, ^ref, _, _, reason} ->
        exit(reason)
    end
  end

  defp spec({name, stubborn: true}),
    do: %{id: name, start: {Stubborn, :start_link, [name]}}

  defp spec({name, options}), do: %{id: name, start: {Worker, :start_link, [{name, options}]}}

  @doc """
  Makes the workers of `group` grow by `bytes` each every `every_ms`, until the events satisfy
  `done`. Returns `{:done, events}`, or `{:timeout, events}`.
  """
  @spec grow_until(pid(), atom(), atom(), pos_integer(), pos_integer(), tuple(), pos_integer()) ::
          {:done | :timeout, list()}
  def grow_until(supervisor, group, kind, bytes, every_ms, done, timeout_ms \\ 30_000) do
    deadline = System.monotonic_time(:millisecond) + Patience.times(timeout_ms)
    do_grow_until(supervisor, group, kind, bytes, every_ms, done, deadline)
  end

  defp do_grow_until(supervisor, group, kind, bytes, every_ms, done, deadline) do
    events = events()

    cond do
      done?(done, events) ->
        {:done, events}

      System.monotonic_time(:millisecond) > deadline ->
        {:timeout, events}

      true ->
        for pid <- pids(supervisor, group), do: GenServer.cast(pid, {:grow, kind, bytes})
        Process.sleep(every_ms)
        do_grow_until(supervisor, group, kind, bytes, every_ms, done, deadline)
    end
  end

  @doc "Makes the workers of a group grow by `count` times `bytes`, and waits until they have."
  @spec fill(pid(), atom(), pos_integer(), pos_integer(), pos_integer()) :: :ok
  def fill(supervisor, group, bytes, count, every_ms) do
    for _ <- 1..count, pid <- pids(supervisor, group) do
      GenServer.cast(pid, {:grow, :binary, bytes})
      # So slowly that growth alone is no pressure.
      Process.sleep(every_ms)
    end

    for pid <- pids(supervisor, group), do: GenServer.call(pid, :state)
    :ok
  end

  @doc """
  Ends the pressure: all workers drop everything. Waits until all children run and the level is
  normal, and returns the events.
  """
  @spec settle(pid(), pos_integer()) :: {:done | :timeout, list()}
  def settle(supervisor, timeout_ms \\ 60_000) do
    for pid <- pids(supervisor, :any), do: GenServer.cast(pid, :drop)
    do_settle(supervisor, System.monotonic_time(:millisecond) + Patience.times(timeout_ms))
  end

  defp do_settle(supervisor, deadline) do
    counts = Supervisor.count_children(supervisor)

    cond do
      counts.active == counts.specs and OOM.level() == :normal -> {:done, events()}
      System.monotonic_time(:millisecond) > deadline -> {:timeout, events()}
      true -> Process.sleep(20) && do_settle(supervisor, deadline)
    end
  end

  @doc "Makes the workers of a group drop their data and grow by `bytes` in one call."
  @spec run_away(pid(), atom(), pos_integer()) :: :ok
  def run_away(supervisor, group, bytes) do
    for pid <- pids(supervisor, group), do: GenServer.cast(pid, {:run_away, bytes})
    :ok
  end

  @spec pids(pid(), atom()) :: [pid()]
  def pids(supervisor, group) do
    for {{name, _}, pid, _, _} <- Supervisor.which_children(supervisor),
        is_pid(pid),
        group in [name, :any],
        do: pid
  end

  @doc "Waits until the level is in `levels`, and returns it."
  @spec await([:level], [OOM.level()]) :: OOM.level() | :timeout
  def await([:level], levels, attempts \\ Patience.times(2_000)) do
    cond do
      OOM.level() in levels -> OOM.level()
      attempts == 0 -> :timeout
      true -> Process.sleep(5) && await([:level], levels, attempts - 1)
    end
  end

  @doc "Waits until the watcher has taken so many samples."
  @spec await_samples(pos_integer()) :: :ok
  def await_samples(samples) do
    unless OOM.snapshot().samples >= samples do
      Process.sleep(5)
      await_samples(samples)
    end

    :ok
  end

  @doc "Fills `supervisor`'s workers until killing is given up, and again when memory comes back; returns the events."
  @spec fill_until_exhausted(pid(), non_neg_integer()) :: [term()]
  def fill_until_exhausted(supervisor, left_bytes) do
    :ok = Healthy.fill_up(supervisor, left_bytes, :fast)
    events = events()

    if done?(:exhausted, events) do
      events
    else
      await_samples(OOM.snapshot().samples + 4)
      fill_until_exhausted(supervisor, left_bytes)
    end
  end

  @doc "Runs a process that builds a list of `bytes` and ends."
  @spec churn(pos_integer()) :: :ok
  def churn(bytes) do
    {_, ref} = spawn_monitor(fn -> length(Enum.to_list(1..div(bytes, 16))) end)
    receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
  end

  @doc "Trims on each scheduler; returns resident bytes before and after."
  @spec trim() :: {pos_integer(), pos_integer()}
  def trim do
    before = rss()

    for scheduler <- 1..System.schedulers_online() do
      parent = self()
      trim = fn -> send(parent, {:trimmed, OOM.Native.trim()}) end
      :erlang.spawn_opt(trim, scheduler: scheduler)
      receive(do: ({:trimmed, :ok} -> :ok))
    end

    {before, rss()}
  end

  defp rss do
    [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))
    String.to_integer(kib) * 1024
  end

  @doc "Kills a registered process, which must be there."
  @spec crash(atom()) :: true
  def crash(name), do: name |> Process.whereis() |> Process.exit(:kill)

  @doc "Kills a process whenever it is there, until `other` is gone too."
  @spec crash_until_down(atom(), pid()) :: :down
  def crash_until_down(name, other) do
    if Process.alive?(other) do
      with pid when is_pid(pid) <- Process.whereis(name), do: Process.exit(pid, :kill)
      crash_until_down(name, other)
    else
      :down
    end
  end

  @doc "Waits until a process of this name is there."
  @spec await_process(atom(), non_neg_integer()) :: pid() | nil
  def await_process(name, attempts \\ Patience.times(2_000)) do
    case Process.whereis(name) do
      nil when attempts > 0 -> Process.sleep(10) && await_process(name, attempts - 1)
      found -> found
    end
  end

  @doc "Links a process that traps exits to all workers of the group."
  @spec link_all(pid(), atom()) :: :ok
  def link_all(supervisor, group) do
    parent = self()

    {pid, ref} =
      spawn_monitor(fn ->
        Process.flag(:trap_exit, true)
        Process.register(self(), __MODULE__.Links)
        for pid <- pids(supervisor, group), do: Process.link(pid)
        send(parent, {:linked, self()})
        collect([])
      end)

    receive do
      {:linked, ^pid} -> Process.demonitor(ref, [:flush]) && :ok
      {:DOWN, ^ref, _, _, reason} -> exit(reason)
    end
  end

  @doc "Returns the reasons from the links, as soon as there are so many."
  @spec link_reasons(pos_integer()) :: [term()]
  def link_reasons(count) do
    send(__MODULE__.Links, {:reasons, count, self()})

    receive do
      {:reasons, reasons} -> reasons
    end
  end

  defp collect(reasons) do
    receive do
      {:EXIT, _, reason} ->
        collect([reason | reasons])

      {:reasons, count, from} when length(reasons) >= count ->
        send(from, {:reasons, reasons})
        collect(reasons)
    end
  end

  @doc "Lets twenty processes grow together to `bytes`, in a VM without a guard."
  @spec unguarded(pos_integer()) :: :ok
  def unguarded(bytes) do
    share = div(bytes, 20)

    parent = self()

    # Each keeps its share until all have theirs.
    for _ <- 1..20 do
      spawn(fn ->
        data = grow(div(share, 100_000), [])
        send(parent, :full)
        Process.sleep(:infinity)
        length(data)
      end)
    end

    for _ <- 1..20, do: receive(do: (:full -> :ok))
    :ok
  end

  defp grow(0, data), do: data
  defp grow(n, data), do: grow(n - 1, [:binary.copy(<<0::800>>, 1_000) | data])

  @spec events() :: list()
  def events, do: GenServer.call(Recorder, :events, :infinity)

  # Conditions as data, because they cross from one VM to another.
  defp done?({:ended, group, count}, events),
    do: Enum.count(events, &match?({:ended, {^group, _}, _, _}, &1)) >= count

  defp done?({:level, level}, events), do: Enum.any?(events, &match?({:level, ^level, _, _}, &1))

  defp done?({:asked, group}, events),
    do: Enum.any?(events, &match?({:asked, {^group, _}, _, _}, &1))

  defp done?(:exhausted, events), do: Enum.any?(events, &match?({:exhausted, _, _}, &1))

  @doc "For `on_exhausted`."
  @spec exhausted(OOM.Snapshot.t()) :: term()
  def exhausted(snapshot), do: send(Recorder, {:exhausted, snapshot})
end
