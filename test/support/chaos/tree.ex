defmodule OOM.Test.Chaos.Tree do
  @moduledoc false
  # A random tree: supervisors of every kind below each other, and the workers required to run.

  alias OOM.Test.Chaos.Worker
  alias OOM.Test.UsedUp

  @kinds [
    :oom,
    :one_for_one,
    :one_for_one,
    :rest_for_one,
    :one_for_all,
    :dynamic,
    :task,
    :partition
  ]
  @oom_strategies [:one_for_one, :one_for_one, :rest_for_one, :one_for_all]
  # The time in which a process with a taken name has to end.
  @ends_ms 5_000

  @doc """
  Returns children for the supervisor on top, and the names of the workers that must always come
  back. The tree follows from the state of `:rand` in the calling process.
  """
  @spec make() :: {[Supervisor.child_spec()], [term()]}
  def make do
    Process.put(:must, [])
    Process.put(:partitions, 0)
    children = for n <- 1..pick(3..8), do: node([n], 0)
    {children, Process.delete(:must)}
  end

  defp node(path, depth) do
    spec = if depth < 3 and pick(1..3) > 1, do: supervisor(path, depth), else: worker(path, true)
    options = pick([[], [], [priority: pick([:low, :normal, :high, 100, 300, 600])]])
    unit = if spec[:type] == :supervisor and pick(1..6) == 1, do: [unit: true], else: []
    OOM.child_spec(spec, options ++ unit)
  end

  # `lasting?`: whether its supervisors bring the worker back.
  defp worker(path, lasting?) do
    restart =
      if lasting?, do: pick([:permanent, :permanent, :transient, :temporary]), else: :temporary

    if restart != :temporary, do: must(path)
    %{id: path, restart: restart, start: {Worker, :start_link, [worker_options(path)]}}
  end

  defp worker_options(path) do
    [
      name: path,
      priority: pick([nil, nil, nil, :low, :normal, 200]),
      trap_exit: pick([true, false, false])
    ]
  end

  defp must(path), do: Process.put(:must, [path | Process.get(:must)])

  defp supervisor(path, depth) do
    start = start(pick(@kinds), path, depth)
    %{id: path, type: :supervisor, start: start}
  end

  defp start(:oom, path, depth) do
    options = [strategy: pick(@oom_strategies)]
    {UsedUp, :start_link, [OOM.Supervisor, children(path, depth), options]}
  end

  defp start(:dynamic, path, _depth) do
    workers = for n <- 1..pick(2..12), do: worker([n | path], true)
    {__MODULE__, :start_dynamic, [workers]}
  end

  defp start(:task, path, _depth) do
    {__MODULE__, :start_tasks, [for(n <- 1..pick(2..12), do: worker_options([n | path]))]}
  end

  # Names are few: they are atoms.
  defp start(:partition, path, depth) do
    n = Process.get(:partitions)

    if n < 4 do
      Process.put(:partitions, n + 1)
      workers = for n <- 1..pick(2..12), do: worker([n | path], true)
      {__MODULE__, :start_partitions, [:"chaos_partitions_#{n}", workers]}
    else
      start(:dynamic, path, depth)
    end
  end

  defp start(strategy, path, depth) do
    options = [strategy: strategy]
    {UsedUp, :start_link, [Supervisor, children(path, depth), options]}
  end

  defp children(path, depth), do: for(n <- 1..pick(1..6), do: node([n | path], depth + 1))

  @spec start_dynamic([Supervisor.child_spec()]) :: {:ok, pid()}
  def start_dynamic(workers) do
    {:ok, pid} = DynamicSupervisor.start_link(strategy: :one_for_one, max_restarts: 0)
    for worker <- workers, do: {:ok, _} = DynamicSupervisor.start_child(pid, worker)
    {:ok, pid}
  end

  @spec start_tasks([Worker.options()]) :: {:ok, pid()}
  def start_tasks(all) do
    {:ok, pid} = Task.Supervisor.start_link()
    for options <- all, do: {:ok, _} = Task.Supervisor.start_child(pid, Worker, :run, [options])
    {:ok, pid}
  end

  @spec start_partitions(atom(), [Supervisor.child_spec()]) :: {:ok, pid()}
  def start_partitions(name, workers) do
    options = [strategy: :one_for_one, max_restarts: 0]
    child = {DynamicSupervisor, options}
    pid = partitions(child_spec: child, name: name, partitions: 2)

    for {worker, n} <- Enum.with_index(workers) do
      via = {:via, PartitionSupervisor, {name, n}}
      {:ok, _} = DynamicSupervisor.start_child(via, worker)
    end

    {:ok, pid}
  end

  # The children of a killed supervisor end a moment after the supervisor. OTP may start the supervisor again before
  # that, and the name of this child is still taken then.
  defp partitions(options) do
    case PartitionSupervisor.start_link(options) do
      {:ok, pid} -> pid
      {:error, {:already_started, pid}} -> ended(pid) && partitions(options)
    end
  end

  defp ended(pid) do
    ref = Process.monitor(pid)

    receive do
      {:DOWN, ^ref, _, _, _} -> true
    after
      @ends_ms -> raise "#{inspect(pid)} keeps its name"
    end
  end

  defp pick(%Range{} = range), do: Enum.random(range)
  defp pick(list), do: Enum.random(list)
end
