defmodule Arena.Tree do
  @moduledoc false
  # The application under load: the canary, fifty innocents at :normal, and the workers at :low.
  # Where another process grows, the workers hold 1 MB each and stand by.

  alias Arena.{
    Asker,
    Ballast,
    Canary,
    Fill,
    Guard,
    Innocent,
    Judge,
    Leaker,
    Prober,
    Shape,
    Witness
  }

  @innocents 50
  @innocent_bytes 50_000
  @bystander_bytes 1_000_000

  @spec innocents() :: pos_integer()
  def innocents, do: @innocents

  @doc "Starts the application; `:not_loaded` where the innocents did not reach the job's working set."
  @spec start(Arena.Job.t()) :: :ok | :not_loaded
  def start(job) do
    Innocent.setup()
    Leaker.setup(job)
    {:ok, _} = supervisor(job, [{Canary, job.canary} | ballast(job)], priority: :protected)
    Prober.start_link(job.canary)
    innocents = for id <- 1..@innocents, do: innocent(:normal, id, @innocent_bytes)
    {:ok, _} = supervisor(job, innocents, priority: :normal)
    workers(Shape.growers(job.shape), job)
    {loaded?, used_bytes} = Fill.run(job, @innocents)
    Witness.filled(used_bytes)
    Asker.start_link(@innocents)
    if loaded?, do: begin(job), else: :not_loaded
  end

  defp begin(job) do
    Shape.outside(job)
    Judge.begin()
    Leaker.begin()
    :ok
  end

  defp workers(:low, job),
    do: supervisor(job, for(id <- ids(job), do: leaker(:low, id, job)), priority: :low)

  defp workers(:none, job) do
    bystanders = for id <- ids(job), do: innocent(:low, id, @bystander_bytes)
    supervisor(job, bystanders, priority: :low)
  end

  defp workers(:protected, job) do
    workers(:none, job)
    # A single grower, however many stand by.
    options = [priority: :protected, max_heap_size: :infinity]
    supervisor(job, [leaker(:protected, 1, job)], options)
  end

  defp workers(:unsupervised, job) do
    workers(:none, job)
    {:ok, _} = Leaker.start_link({:unsupervised, 1, job})
  end

  defp ids(job), do: 1..job.workers

  defp leaker(kind, id, job),
    do: %{id: {kind, id}, start: {Leaker, :start_link, [{kind, id, job}]}}

  defp innocent(kind, id, bytes),
    do: %{id: {kind, id}, start: {Innocent, :start_link, [{kind, id, bytes}]}}

  defp ballast(%{ballast_bytes: 0}), do: []
  defp ballast(job), do: [{Ballast, job.ballast_bytes}]

  defp supervisor(job, children, oom), do: Guard.supervisor(job, children, oom)
end
