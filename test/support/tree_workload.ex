defmodule OOM.Test.TreeWorkload do
  @moduledoc false
  # Runs inside a limited VM: below an OOM.Supervisor a plain supervisor of each kind with a
  # leaking and a healthy worker, and a report of their fate.

  alias OOM.Test.UsedUp

  @near 120 * 1_048_576
  @chunk :binary.copy(<<1>>, 1_024)

  @doc "Returns the memory a leak takes at a time: less near the floor."
  @spec more() :: binary()
  def more,
    do: :binary.copy(@chunk, if(OOM.snapshot().headroom_bytes > @near, do: 2_000, else: 500))

  defmodule Worker do
    @moduledoc false
    use GenServer

    def start_link(name), do: GenServer.start_link(__MODULE__, name)

    @impl true
    def init(name) do
      send(OOM.Test.TreeWorkload, {:started, name, self()})
      {:ok, []}
    end

    @impl true
    def handle_cast(:grow, data), do: {:noreply, [OOM.Test.TreeWorkload.more() | data]}
  end

  defmodule Conns do
    @moduledoc false
    # Like ranch's: a special process that forgets ended connections.
    def start, do: :proc_lib.start_link(__MODULE__, :init, [self()])

    def init(parent) do
      Process.flag(:trap_exit, true)
      :proc_lib.init_ack(parent, {:ok, self()})
      loop(parent, [])
    end

    defp loop(parent, conns) do
      receive do
        {:connect, fun} ->
          loop(parent, [spawn_link(fun) | conns])

        {:children, from} ->
          send(from, {:children, conns})
          loop(parent, conns)

        {:EXIT, ^parent, reason} ->
          exit(reason)

        {:EXIT, pid, _} ->
          loop(parent, List.delete(conns, pid))
      end
    end
  end

  @doc """
  Lets the leak of this kind grow until it is gone. `reason`: of its end; `starts`: its starts
  until the level was normal again; `back?`: whether the leak came back, then or later (waited for
  only where expected); `other?`: whether the healthy worker lived all along; `same?`: whether the
  list of children is as before.
  """
  @spec run(atom(), boolean(), boolean()) :: map()
  def run(kind, returns?, busy? \\ false) do
    Process.register(self(), __MODULE__)
    {:ok, top} = OOM.Supervisor.start_link([], strategy: :one_for_one, max_restarts: 0)
    {:ok, supervisor} = Supervisor.start_child(top, spec(kind))
    {leak, other} = start(kind, supervisor)
    before = shape(kind, supervisor)
    # A worker missed by the last walk is found by the next.
    OOM.Tree.Census.walk()
    OOM.Accountant.pass()
    ref = Process.monitor(leak)
    if busy?, do: busy(supervisor)
    reason = grow(leak, ref)
    if busy?, do: send(supervisor, :go)
    normal()
    started = collect()
    # Of a unit, any member may start.
    back? = returns? and (:leak in started or eventually(fn -> started?(:leak) end))

    %{
      reason: reason,
      starts: Enum.count(started, &(&1 == :leak)),
      back?: back?,
      other?: Process.alive?(other),
      same?: same?(returns? or kind == :spawned, fn -> shape(kind, supervisor) == before end),
      top?: match?([{_, ^supervisor, _, _}], Supervisor.which_children(top))
    }
  end

  defp spec(:dynamic), do: {DynamicSupervisor, strategy: :one_for_one, max_restarts: 0}
  defp spec(:transient), do: spec(:dynamic)
  defp spec(:temporary), do: spec(:dynamic)
  defp spec(:task), do: {Task.Supervisor, max_restarts: 0}
  defp spec(:conns), do: %{id: :conns, type: :supervisor, start: {Conns, :start, []}}

  defp spec(:partition) do
    {PartitionSupervisor, child_spec: spec(:dynamic), name: __MODULE__.Partitions, partitions: 2}
  end

  defp spec(:simple) do
    flags = %{strategy: :simple_one_for_one, intensity: 0, period: 1}
    child = %{id: :worker, start: {Worker, :start_link, []}}

    %{
      id: :simple,
      type: :supervisor,
      start: {:supervisor, :start_link, [OOM.Test.Template, {flags, [child]}]}
    }
  end

  defp spec(:spawned) do
    extra = fn ->
      pid = spawn_link(&loop/0)
      send(__MODULE__, {:started, :leak, pid})
      Worker.start_link(:other)
    end

    children = [%{id: :other, start: {Kernel, :apply, [extra, []]}}]
    static(children, :one_for_one)
  end

  defp spec(strategy) do
    # The first child is not taken along by :rest_for_one.
    children = for name <- [:other, :leak], do: %{id: name, start: {Worker, :start_link, [name]}}
    static(children, strategy)
  end

  defp static(children, strategy) do
    options = [strategy: strategy]
    start = {UsedUp, :start_link, [Supervisor, children, options]}
    %{id: :static, type: :supervisor, start: start}
  end

  defp start(kind, supervisor) when kind in [:dynamic, :transient, :temporary] do
    restart = if kind == :dynamic, do: :permanent, else: kind

    for name <- [:leak, :other] do
      spec = %{id: name, start: {Worker, :start_link, [name]}, restart: restart}
      {:ok, _} = DynamicSupervisor.start_child(supervisor, spec)
    end

    started()
  end

  defp start(:partition, _supervisor) do
    for name <- [:leak, :other] do
      via = {:via, PartitionSupervisor, {__MODULE__.Partitions, 0}}
      spec = %{id: name, start: {Worker, :start_link, [name]}}
      {:ok, _} = DynamicSupervisor.start_child(via, spec)
    end

    started()
  end

  defp start(:simple, supervisor) do
    for name <- [:leak, :other], do: {:ok, _} = :supervisor.start_child(supervisor, [name])
    started()
  end

  defp start(:task, supervisor) do
    [leak, other] =
      for _ <- 1..2, do: supervisor |> Task.Supervisor.start_child(&loop/0) |> elem(1)

    {leak, other}
  end

  defp start(:conns, supervisor) do
    for _ <- 1..2, do: send(supervisor, {:connect, &loop/0})
    [leak, other] = connections(supervisor)
    {leak, other}
  end

  defp start(_static, _supervisor), do: started()

  defp started do
    {receive(do: ({:started, :leak, pid} -> pid)), receive(do: ({:started, :other, pid} -> pid))}
  end

  defp started?(name) do
    receive do
      {:started, ^name, _} -> true
    after
      0 -> false
    end
  end

  # A child with a long start, blocking its supervisor.
  defp busy(supervisor) do
    parent = self()

    slow = fn ->
      send(parent, :busy)
      receive(do: (:go -> :ignore))
    end

    spec = %{id: :slow, restart: :temporary, start: {Kernel, :apply, [slow, []]}}
    request = if dynamic?(supervisor), do: DynamicSupervisor, else: Supervisor
    spawn(fn -> request.start_child(supervisor, spec) end)
    receive(do: (:busy -> :ok))
  end

  defp dynamic?(supervisor), do: match?({_, _, _, _, :dynamic}, OOM.Tree.lookup(supervisor))

  defp grow(leak, ref) do
    GenServer.cast(leak, :grow)

    receive do
      {:DOWN, ^ref, _, _, reason} -> reason
    after
      5 -> grow(leak, ref)
    end
  end

  defp normal do
    eventually(fn -> OOM.level() == :normal end)
  end

  defp collect do
    receive do
      {:started, name, _} -> [name | collect()]
    after
      0 -> []
    end
  end

  defp shape(:conns, supervisor), do: length(connections(supervisor))
  # The child present at the start, without a child specification.
  defp shape(:partition, _supervisor) do
    for {id, pid, _, _} <- PartitionSupervisor.which_children(__MODULE__.Partitions),
        do: {id, DynamicSupervisor.count_children(pid)}
  end

  defp shape(_kind, supervisor) do
    for {id, pid, type, modules} <- :supervisor.which_children(supervisor),
        do: {id, is_pid(pid), type, modules}
  end

  defp connections(supervisor) do
    send(supervisor, {:children, self()})
    receive(do: ({:children, pids} -> pids))
  end

  defp loop(data \\ []) do
    receive do
      {:"$gen_cast", :grow} -> loop([more() | data])
    end
  end

  # Where a child is missing, the absence is expected.
  defp same?(true, fun), do: eventually(fun)
  defp same?(false, fun), do: not eventually(fn -> not fun.() end)

  defp eventually(fun, tries \\ OOM.Test.Patience.times(3_000)) do
    cond do
      fun.() -> true
      tries == 0 -> false
      true -> Process.sleep(5) && eventually(fun, tries - 1)
    end
  end
end
