defmodule OOM.Test.Healthy do
  @moduledoc false
  # Runs inside a limited VM: workers that do the work of healthy workers, below an
  # OOM.Supervisor.

  @mib 1_048_576
  @pause_ms 5

  defmodule Worker do
    @moduledoc false
    # Loads its data in `init/1`, as fast as possible, and keeps the data.
    use GenServer

    @mib 1_048_576

    def start_link({name, load}) when is_atom(name),
      do: GenServer.start_link(__MODULE__, load, name: name)

    def start_link({_id, load}), do: GenServer.start_link(__MODULE__, load)

    @impl true
    def init(load), do: {:ok, load(load)}

    defp load({:binaries, bytes}),
      do: for(_ <- 1..div(bytes, 65_536)//1, do: :binary.copy(<<1>>, 65_536))

    defp load({:table, bytes}) do
      table = :ets.new(__MODULE__, [:private])
      # About a thousand bytes each.
      for i <- 1..div(bytes, 1_000), do: :ets.insert(table, {i, :lists.seq(1, 58)})
      table
    end

    @impl true
    def handle_call(:ping, _from, data), do: {:reply, :pong, data}

    def handle_call({:add, bytes}, _from, data),
      do: {:reply, :ok, [binary(bytes) | data]}

    # In whole chunks, so filling far from the floor takes no time.
    @chunk :binary.copy(<<1>>, 65_536)
    defp binary(bytes), do: :binary.copy(@chunk, div(bytes, 65_536))

    # As fast as possible, and for ever.
    @impl true
    def handle_cast(:leak, data), do: leak(data)
    defp leak(data), do: leak([:binary.copy(<<1>>, @mib) | data])
  end

  @doc "Starts a worker for each `{id, load, options}`; an atom as id is registered as the worker's name."
  @spec start([{term(), {atom(), non_neg_integer()}, keyword()}], keyword()) :: pid()
  def start(workers, options \\ []) do
    test = self()

    children =
      for {id, load, child} <- workers,
          do: OOM.child_spec(%{id: id, start: {Worker, :start_link, [{id, load}]}}, child)

    spawn(fn ->
      Process.flag(:trap_exit, true)
      {:ok, pid} = OOM.Supervisor.start_link(children, [strategy: :one_for_one] ++ options)
      send(test, {:started, pid})
      Process.sleep(:infinity)
    end)

    receive(do: ({:started, pid} -> pid))
  end

  @doc "Returns the pids of the running children, by id."
  @spec pids(pid()) :: %{term() => pid()}
  def pids(supervisor),
    do:
      for(
        {id, pid, _, _} when is_pid(pid) <- Supervisor.which_children(supervisor),
        into: %{},
        do: {id, pid}
      )

  @doc """
  Makes the children grow in turn, until so much headroom is left. `:fast` as fast as the samples
  come, `:slow` so slowly that decisions see no growth, once little is left.
  """
  @spec fill_up(pid(), non_neg_integer(), :fast | :slow) :: :ok
  def fill_up(supervisor, left_bytes, pace) do
    workers = supervisor |> pids() |> Map.values()
    Enum.each(Stream.cycle(workers), &add(&1, left_bytes, pace))
  catch
    :full -> :ok
  end

  defp add(worker, left_bytes, pace) do
    samples = OOM.snapshot().samples
    OOM.Native.watcher_sample(OOM.Tables.watcher())
    await(fn -> OOM.snapshot().samples > samples end)
    headroom = OOM.snapshot().headroom_bytes
    if headroom <= left_bytes, do: throw(:full)
    {bytes, pause_ms} = step(headroom)
    :ok = GenServer.call(worker, {:add, bytes}, :infinity)
    if pace == :slow, do: Process.sleep(pause_ms)
  end

  # As fast as possible where the floor is far; then 30 MB/s, 20 MB/s, 7 MB/s, and less than
  # 2 MB/s.
  defp step(headroom_bytes) when headroom_bytes > 192 * @mib, do: {4 * @mib, 0}
  defp step(headroom_bytes) when headroom_bytes > 80 * @mib, do: {@mib, 20}
  defp step(headroom_bytes) when headroom_bytes > 40 * @mib, do: {@mib, 50}
  defp step(headroom_bytes) when headroom_bytes > 33 * @mib, do: {@mib, 150}
  defp step(_headroom_bytes), do: {@mib, 600}

  @doc "Waits until a process besides `before` has this name."
  @spec await_other(atom(), pid()) :: pid()
  def await_other(name, before) do
    await(fn -> Process.whereis(name) not in [nil, before] end)
    Process.whereis(name)
  end

  @doc "Calls the function, and returns the reason of the process's end."
  @spec ended(pid(), (() -> term()) | {module(), atom(), [term()]}) :: term()
  def ended(pid, {module, function, args}) do
    ref = Process.monitor(pid)
    apply(module, function, args)
    receive(do: ({:DOWN, ^ref, _, _, reason} -> reason))
  end

  @doc "Waits until all are admitted: while memory grows towards the floor some are not."
  @spec await_admitted() :: :ok
  def await_admitted, do: await(fn -> Enum.all?([:low, :normal, :high], &OOM.admit?/1) end)

  @doc "Waits until this child is held."
  @spec await_held(term()) :: :ok
  def await_held(id), do: await(fn -> Enum.any?(OOM.held(), &(&1.id == id)) end)

  @doc "Waits until nobody is held."
  @spec await_none_held() :: :ok
  def await_none_held, do: await(fn -> OOM.held() == [] end)

  defp await(condition) do
    unless condition.() do
      Process.sleep(@pause_ms)
      await(condition)
    end

    :ok
  end
end
