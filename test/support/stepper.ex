defmodule OOM.Test.Stepper do
  @moduledoc false
  # Runs inside a limited VM: workers that grow in steps and sleep in between, bound on demand to
  # a protected worker reading a stream of them; idle workers without size; and growth of no
  # worker.

  @mib 1_048_576
  @pause_ms 20
  @looks 25
  # A step takes 10,000 reductions, being suspended and looked at 15 a second.
  @step_reductions 1_000
  @calm_bytes_per_s 500_000

  defmodule Reader do
    @moduledoc false
    use GenServer
    alias OOM.Test.Stepper

    def start_link(options), do: GenServer.start_link(__MODULE__, options, name: __MODULE__)

    @impl true
    def init(options), do: {:ok, nil, {:continue, options}}

    @impl true
    def handle_continue({count, period_ms}, _) do
      Stepper.Tasks
      |> Task.Supervisor.async_stream(1..count, fn _ -> Stepper.grow([], period_ms) end,
        timeout: :infinity,
        max_concurrency: count
      )
      |> Stream.run()

      {:noreply, nil}
    end
  end

  defmodule Grower do
    @moduledoc false
    use GenServer
    alias OOM.Test.Stepper

    def start_link(period_ms), do: GenServer.start_link(__MODULE__, period_ms)

    @impl true
    def init(period_ms), do: {:ok, [], {:continue, period_ms}}

    @impl true
    def handle_continue(period_ms, data), do: Stepper.grow(data, period_ms)
  end

  @doc "Starts a protected reader of so many tasks, each growing by 1 MiB every `period_ms`, beside ballast."
  @spec start_bound(pos_integer(), pos_integer(), non_neg_integer()) :: :ok
  def start_bound(count, period_ms, ballast_bytes) do
    start_ballast(ballast_bytes)

    start([
      OOM.child_spec({Task.Supervisor, name: __MODULE__.Tasks}, priority: :low),
      OOM.child_spec({Reader, {count, period_ms}}, priority: :protected)
    ])
  end

  @doc "Starts so many low, killable workers growing in steps, beside ballast and idle workers."
  @spec start_free(pos_integer(), pos_integer(), non_neg_integer()) :: [pid()]
  def start_free(count, period_ms, ballast_bytes) do
    growers =
      for i <- 1..count do
        OOM.child_spec(%{id: {:grower, i}, start: {Grower, :start_link, [period_ms]}},
          priority: :low
        )
      end

    pids = start_idle(20, ballast_bytes)
    start(growers)
    pids
  end

  @doc "Starts so many idle workers beside ballast, and returns the pids."
  @spec start_idle(pos_integer(), non_neg_integer()) :: [pid()]
  def start_idle(count, ballast_bytes) do
    start_ballast(ballast_bytes)
    start(idle(count))
    children()
  end

  defmodule Loader do
    @moduledoc false
    use GenServer
    alias OOM.Test.Stepper

    def start_link(_), do: GenServer.start_link(__MODULE__, nil, timeout: :infinity)

    # The start never ends.
    @impl true
    def init(_), do: Stepper.grow([], 2)
  end

  @doc """
  Starts idle workers, a low child that loads in its `init` without end, and a child after it.
  Returns the idle workers once all have been started or held.
  """
  @spec start_loader() :: [pid()]
  def start_loader do
    loader = OOM.child_spec(%{id: :loader, start: {Loader, :start_link, [nil]}}, priority: :low)
    start(idle(20) ++ [loader] ++ [%{id: :after, start: {Agent, :start_link, [fn -> nil end]}}])
    children()
  end

  # 0.2 MiB each, and nothing to do.
  defp idle(count) do
    for i <- 1..count,
        do: %{id: {:idle, i}, start: {Agent, :start_link, [fn -> :lists.seq(1, 12_800) end]}}
  end

  defp ballast(bytes) do
    # In whole chunks: byte by byte takes longer than the test.
    chunk = :binary.copy(<<1>>, 65_536)
    load = fn -> for _ <- 1..div(bytes, @mib)//1, do: :binary.copy(chunk, 16) end
    start = {Agent, :start_link, [load, [name: __MODULE__.Ballast]]}
    OOM.child_spec(%{id: :ballast, start: start}, priority: :protected)
  end

  # The ballast's growth is forgotten before further starts.
  defp start_ballast(bytes) do
    start([ballast(bytes)])
    calm()
  end

  defp calm do
    snapshot = OOM.snapshot()

    unless snapshot.level in [:normal, :elevated] and
             (snapshot.growth_bytes_per_s || 0) < @calm_bytes_per_s do
      Process.sleep(@pause_ms)
      calm()
    end
  end

  defp start(children) do
    test = self()

    spawn(fn ->
      Process.flag(:trap_exit, true)
      {:ok, supervisor} = OOM.Supervisor.start_link(children, strategy: :one_for_one)
      :persistent_term.put(__MODULE__, supervisor)
      send(test, :started)
      Process.sleep(:infinity)
    end)

    receive(do: (:started -> :ok))
  end

  defp children do
    for {{:idle, _}, pid, _, _} <-
          Supervisor.which_children(:persistent_term.get(__MODULE__)),
        do: pid
  end

  @doc """
  Waits until all tasks have stood still for a while; returns the tasks. A task that gets slices may be found
  suspended at each look, so the work of a task counts, too.
  """
  @spec await_standing() :: [pid()]
  def await_standing do
    pids = Task.Supervisor.children(__MODULE__.Tasks)
    before = work(pids)
    still? = pids != [] and standing?(pids, @looks) and work(pids) - before < @step_reductions
    if still?, do: pids, else: await_standing()
  end

  defp work(pids) do
    Enum.sum(for pid <- pids, {:reductions, count} <- [Process.info(pid, :reductions)], do: count)
  end

  @doc "Waits until none of these stands still, and all have gone on."
  @spec await_running([pid()]) :: :ok
  def await_running(pids) do
    if standing?(pids, 1), do: await_running(pids), else: :ok
  end

  defp standing?(_pids, 0), do: true

  defp standing?(pids, looks) do
    Process.sleep(@pause_ms)
    all? = Enum.all?(pids, &(Process.info(&1, :status) == {:status, :suspended}))
    all? and standing?(pids, looks - 1)
  end

  @doc "Gives the ballast's memory back."
  @spec drop_ballast() :: :ok
  def drop_ballast do
    Agent.update(__MODULE__.Ballast, fn _ -> :erlang.garbage_collect() && nil end)
    Agent.update(__MODULE__.Ballast, fn nil -> :erlang.garbage_collect() && nil end)
  end

  @doc "Waits until the guard has ended the first of the growers."
  @spec await_kill() :: :ok
  def await_kill do
    if :ets.info(OOM.Victims, :size) == 0 do
      Process.sleep(@pause_ms)
      await_kill()
    else
      :ok
    end
  end

  @doc """
  Grows a table without a worker as owner, or a program behind a port, by so many MiB each second,
  until only so much headroom is left. Returns how long the throttle suspended each of `pids`: the
  longest stretches, in ms.
  """
  @spec fill(:table | :program, pos_integer(), pos_integer(), [pid()]) :: [non_neg_integer()]
  def fill(kind, mib_per_s, left_bytes, pids) do
    trace()
    test = self()

    spawn_monitor(fn ->
      fill(0, open(kind), mib_per_s, left_bytes, now())
      send(test, :filled)
      Process.sleep(:infinity)
    end)

    watch(MapSet.new(pids), %{}, %{})
  end

  defp open(:table), do: {:table, :ets.new(__MODULE__, [:public])}

  # The program keeps the last lines of its input, and no line ends. Nothing is read from the
  # port: the VM would close a port at once whose program says nothing from the start, because its
  # output goes elsewhere.
  defp open(:program),
    do: {:port, Port.open({:spawn, "tail > /dev/null 2>&1"}, [:binary, :out])}

  defp fill(count, to, mib_per_s, left_bytes, began) do
    due = div((now() - began) * mib_per_s, 1_000)
    for i <- count..(due - 1)//1, do: more(to, i)

    if OOM.snapshot().headroom_bytes > left_bytes do
      Process.sleep(5)
      fill(max(count, due), to, mib_per_s, left_bytes, began)
    end
  end

  defp more({:table, table}, i), do: :ets.insert(table, {i, :lists.seq(1, div(@mib, 16))})
  defp more({:port, port}, _i), do: Port.command(port, mib())

  # Each throttle begins as a process of the guard. The throttle is traced, not polled: looks have
  # gaps, and miss a run of 1 ms.
  defp trace do
    :erlang.trace_pattern({:erlang, :suspend_process, 2}, true, [])
    :erlang.trace_pattern({:erlang, :resume_process, 1}, true, [])
    flags = [:call, :set_on_spawn, :monotonic_timestamp]
    1 = :erlang.trace(Process.whereis(OOM.Guard), true, flags)
  end

  defp watch(pids, since, longest) do
    receive do
      {:trace_ts, by, :call, {:erlang, :suspend_process, [pid, _]}, at} ->
        watch(pids, Map.put_new(since, {by, pid}, at), longest)

      {:trace_ts, by, :call, {:erlang, :resume_process, [pid]}, at} ->
        {from, since} = Map.pop(since, {by, pid}, at)
        ms = System.convert_time_unit(at - from, :native, :millisecond)
        longest = if pid in pids, do: Map.update(longest, pid, ms, &max(&1, ms)), else: longest
        watch(pids, since, longest)

      :filled ->
        Map.values(longest)

      {:DOWN, _, :process, _, reason} ->
        exit({:not_filled, reason})
    end
  end

  @doc false
  @spec grow([binary()], pos_integer()) :: no_return()
  def grow(data, period_ms) do
    Process.sleep(period_ms)
    grow([mib() | data], period_ms)
  end

  defp mib, do: :binary.copy(<<1>>, @mib)
  defp now, do: System.monotonic_time(:millisecond)
end
