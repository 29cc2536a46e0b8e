defmodule Usable.Worker do
  @moduledoc false
  # An ordinary worker: starts, loads its part as fast as possible, reports, and then serves from
  # its data. Knows nothing of OOM.

  use GenServer

  @piece_bytes 65_536
  @row_bytes 1_024
  # Overhead of a row: the tuple, the key, the binary's head and the table's overhead.
  @row_extra_bytes 96
  @cell_bytes 16
  # A rewritten heap: so many parts, one rewritten at each interval: 1 MB/s of 100 MB.
  @parts 1_000
  @rewrite_ms 100

  def start_link({kind, bytes, owner}), do: GenServer.start_link(__MODULE__, {kind, bytes, owner})

  @impl true
  def init({_, _, owner} = load) do
    send(owner, {:up, self()})
    {:ok, nil, {:continue, load}}
  end

  @impl true
  def handle_continue({kind, bytes, owner}, nil) do
    data = load(kind, bytes)
    send(owner, {:loaded, self()})
    if kind == :rewritten, do: Process.send_after(self(), :rewrite, @rewrite_ms)
    {:noreply, {kind, data}}
  end

  @impl true
  def handle_info(:rewrite, {:rewritten, {n, parts}}) do
    Process.send_after(self(), :rewrite, @rewrite_ms)
    part = list(length(parts[n]), [])
    {:noreply, {:rewritten, {rem(n + 1, @parts), %{parts | n => part}}}}
  end

  defp load(:binaries, bytes),
    do: for(_ <- 1..div(bytes, @piece_bytes)//1, do: :binary.copy(<<1>>, @piece_bytes))

  defp load(:ets, bytes) do
    table = :ets.new(:cache, [:set, :protected])
    rows = div(bytes, @row_bytes + @row_extra_bytes)
    for key <- 1..rows//1, do: :ets.insert(table, {key, :binary.copy(<<key::32>>, 256)})
    table
  end

  defp load(:heap, bytes), do: list(div(bytes, @cell_bytes), [])

  defp load(:rewritten, bytes) do
    cells = div(bytes, @parts * @cell_bytes)
    {0, Map.new(0..(@parts - 1), &{&1, list(cells, [])})}
  end

  defp list(0, list), do: list
  defp list(n, list), do: list(n - 1, [n | list])
end

defmodule Usable.Node do
  @moduledoc false
  # The VM under test in bench/usable.exs: loads a share of its limit, and sits still.

  alias Arena.Used
  alias Usable.Worker

  @workers 50
  @rewritten_bytes 100_000_000
  @load_ms 60_000
  # Memory left over from loading is given back meanwhile; nobody may die.
  @settle_ms 2_000
  @look_ms 100

  @doc """
  Begins a run: loads until the working set should be `percent` of the limit, then looks for so
  many seconds. Returns once the load is over, well or not.
  """
  def load(guard, kind, percent, limit_bytes, seconds) do
    owner = self()
    # The workers outlive this call.
    run = spawn(fn -> run(owner, guard, kind, percent, limit_bytes, seconds) end)
    Process.register(run, __MODULE__)

    receive do
      :over -> :ok
    end
  end

  @doc "Waits for the end of the run: `{verdict, facts}`."
  def result do
    send(__MODULE__, {:result, self()})

    receive do
      {:result, result} -> result
    end
  end

  defp run(owner, guard, kind, percent, limit_bytes, seconds) do
    cgroup = Used.cgroup()

    result =
      case parts(kind, div(limit_bytes * percent, 100) - Used.bytes(cgroup)) do
        :too_small -> send(owner, :over) && {:too_small, []}
        parts -> load_and_look(owner, guard, parts, cgroup, {limit_bytes, seconds})
      end

    receive do
      {:result, waiting} -> send(waiting, {:result, result})
    end
  end

  @doc "Returns the part of each worker. A part without bytes is no worker."
  def parts(_kind, bytes) when bytes <= 0, do: :too_small
  def parts(:binaries, bytes), do: equal(:binaries, bytes, @workers)
  def parts(:ets, bytes), do: equal(:ets, bytes, @workers)
  def parts(:heaps, bytes), do: equal(:heap, bytes, @workers)
  def parts(:one_heap, bytes) when bytes < @rewritten_bytes, do: :too_small

  def parts(:one_heap, bytes),
    do: [{:rewritten, @rewritten_bytes} | equal(:binaries, bytes - @rewritten_bytes, @workers)]

  def parts(:mixture, bytes) do
    share = div(bytes, 3)
    for kind <- [:binaries, :ets, :heap], part <- equal(kind, share, div(@workers, 3)), do: part
  end

  defp equal(kind, bytes, count), do: List.duplicate({kind, div(bytes, count)}, count)

  defp load_and_look(owner, guard, parts, cgroup, {limit_bytes, seconds}) do
    begun = now()
    runner = self()
    # Monitors report the fate of the workers.
    Process.flag(:trap_exit, true)

    children =
      for {{kind, bytes}, id} <- Enum.with_index(parts),
          do: %{id: id, start: {Worker, :start_link, [{kind, bytes, runner}]}}

    {:ok, _} = supervisor(guard, children)
    loaded = loaded(length(parts), begun + @load_ms)
    load_ms = now() - begun
    send(owner, :over)

    with :ok <- loaded,
         :ok <- look(guard, now() + @settle_ms, :settling),
         {:ok, used} <- look(guard, now() + seconds * 1_000, {cgroup, []}) do
      {:ok, [load_ms: load_ms, share: share(used, limit_bytes)]}
    else
      {:died, reason} -> {:killed, [reason: inspect(reason, limit: 5), after_ms: now() - begun]}
      other -> {other, [after_ms: now() - begun]}
    end
  end

  defp loaded(0, _deadline), do: :ok

  # In order of arrival: a worker is up, then loaded or dead.
  defp loaded(waiting, deadline) do
    receive do
      {:up, pid} -> Process.monitor(pid) && loaded(waiting, deadline)
      {:loaded, _} -> loaded(waiting - 1, deadline)
      {:DOWN, _, :process, _, reason} -> {:died, reason}
    after
      max(deadline - now(), 0) -> :not_loaded
    end
  end

  # A worker refused while the node still settles is no fault, a dead worker is.
  defp look(guard, until, what) do
    receive do
      {:DOWN, _, :process, _, reason} -> {:died, reason}
    after
      @look_ms ->
        cond do
          guard == :guarded and OOM.held() != [] -> :held
          guard == :guarded and what != :settling and not OOM.admit?(:normal) -> :refused
          now() >= until -> if what == :settling, do: :ok, else: {:ok, elem(what, 1)}
          what == :settling -> look(guard, until, what)
          true -> look(guard, until, used(what))
        end
    end
  end

  defp used({cgroup, used}), do: {cgroup, [Used.bytes(cgroup) | used]}

  # The median: the steady size, whatever a collection takes for a moment.
  defp share(used, limit_bytes) do
    median = used |> Enum.sort() |> Enum.at(div(length(used), 2))
    Float.round(median * 100 / limit_bytes, 1)
  end

  # The supervisor ends with its starter, the run.
  defp supervisor(:guarded, children),
    do: OOM.Supervisor.start_link(children, strategy: :one_for_one)

  defp supervisor(:unguarded, children),
    do: Supervisor.start_link(children, strategy: :one_for_one)

  defp now, do: System.monotonic_time(:millisecond)
end
