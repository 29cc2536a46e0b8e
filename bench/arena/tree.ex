defmodule Arena.Tree do
  @moduledoc false
  # The application under load: the canary, fifty innocents at :normal, and the workers at :low.
  # Where somebody else grows, the workers hold 1 MB each and stand by.

  alias Arena.{Canary, Innocent, Leaker, Prober, Shape}

  @innocents 50
  @innocent_bytes 50_000
  @bystander_bytes 1_000_000

  @spec start(Arena.Job.t()) :: :ok
  def start(job) do
    Leaker.setup()
    {:ok, _} = supervisor([OOM.child_spec(Canary, priority: :protected)], [])
    Prober.start_link()

    {:ok, _} =
      supervisor(for(id <- 1..@innocents, do: innocent(:normal, id, @innocent_bytes)), [])

    Shape.outside(job)
    workers(Shape.growers(job.shape), job)
    :ok
  end

  defp workers(:low, job),
    do: supervisor(for(id <- ids(job), do: leaker(:low, id, job)), priority: :low)

  defp workers(:none, job),
    do: supervisor(for(id <- ids(job), do: innocent(:low, id, @bystander_bytes)), priority: :low)

  defp workers(:protected, job) do
    workers(:none, job)
    # One, however many stand by.
    options = [priority: :protected, max_heap_size: :infinity]
    supervisor([OOM.child_spec(leaker(:protected, 1, job), options)], [])
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

  # A crash must show, not multiply.
  defp supervisor(children, oom),
    do: OOM.Supervisor.start_link(children, strategy: :one_for_one, max_restarts: 0, oom: oom)
end
