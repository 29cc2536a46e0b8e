# Growth no kill of a worker of low priority can stop.

defmodule Arena.Shapes.Neighbour do
  @moduledoc false
  # Another program in the same cgroup takes 60 % of the memory not held, while the workers leak.
  @behaviour Arena.Shape

  alias Arena.{Job, Judge}
  alias Arena.Shapes.List

  @impl true
  defdelegate new(id, job), to: List
  @impl true
  defdelegate step(held), to: List

  @after_ms 1_000

  @impl true
  def outside(job) do
    bytes = Job.of_the_rest(job, div(job.limit_bytes * 6, 10))
    # tail keeps all input without a line break.
    line =
      "exec 3>&1; sleep #{@after_ms / 1_000}; " <>
        "{ head -c #{bytes} /dev/zero; echo >&3; sleep #{job.seconds + 10}; } | tail -n 1 >/dev/null"

    Judge.outside(__MODULE__, :begins)
    spawn_link(fn -> take(line) end)
  end

  # The line ends once the program has all its memory, or has been ended.
  defp take(line) do
    sh = System.find_executable("sh")
    port = Port.open({:spawn_executable, sh}, [:exit_status, args: ["-c", line]])
    receive(do: ({^port, _} -> Judge.outside(__MODULE__, :over)))
    Process.sleep(:infinity)
  end
end

defmodule Arena.Shapes.NeighbourAlone do
  @moduledoc false
  # The same with workers holding 1 MB each without growth.
  @behaviour Arena.Shape

  alias Arena.Shapes.Neighbour

  @impl true
  def new(_id, _job), do: nil
  @impl true
  def step(nil), do: {1, nil}
  @impl true
  defdelegate outside(job), to: Neighbour
  @impl true
  def growers, do: :none
end

defmodule Arena.Shapes.Protected do
  @moduledoc false
  # The growing process must not be killed. It takes 70 % of the memory not held, and stops.
  @behaviour Arena.Shape

  @per_s 200_000_000
  @piece_bytes 262_144

  @impl true
  def new(_id, job), do: {now(), 0, Arena.Job.of_the_rest(job, div(job.limit_bytes * 7, 10)), []}

  @impl true
  # The state is named after the sleep, so that a collection keeps the memory.
  def step({begun, size, most, held}) when size >= most,
    do: Process.sleep(:infinity) && {1, {begun, size, most, held}}

  def step({begun, size, most, held}) do
    size = size + @piece_bytes
    ahead_ms = div(size * 1_000, @per_s) - (now() - begun)
    if ahead_ms > 0, do: Process.sleep(ahead_ms)
    {@piece_bytes, {begun, size, most, [:binary.copy(<<1>>, @piece_bytes) | held]}}
  end

  defp now, do: System.monotonic_time(:millisecond)

  @impl true
  def growers, do: :protected
end

defmodule Arena.Shapes.Unsupervised do
  @moduledoc false
  # The same in a process unknown to OOM.
  @behaviour Arena.Shape

  alias Arena.Shapes.Protected

  @impl true
  defdelegate new(id, job), to: Protected
  @impl true
  defdelegate step(data), to: Protected
  @impl true
  def growers, do: :unsupervised
end
