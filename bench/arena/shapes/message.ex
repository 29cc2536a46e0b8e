defmodule Arena.Shapes.Mailbox do
  @moduledoc false
  # Unthrottled clients send to slow workers. The clients do not leak: a client holds
  # nothing, and is not registered.
  @behaviour Arena.Shape

  alias Arena.{Leaker, Pace, Progress}

  # Lists of 50, copied, with their envelopes.
  @sent 100
  @sent_bytes @sent * 900

  @impl true
  def new(_id, _job), do: nil

  @impl true
  def step(nil), do: {1, nil}

  @impl true
  def outside(job) do
    for n <- 1..System.schedulers_online() do
      spawn_link(fn -> send_on(n, job, Pace.new(job, System.schedulers_online())) end)
    end
  end

  defp send_on(n, job, pace) do
    id = rem(n, job.workers) + 1

    case Leaker.whereis(id) do
      # A client waits where nobody listens.
      nil -> Process.sleep(1) && send_on(n + 1, job, pace)
      pid -> send_on(n + 1, job, Pace.wait(pace, send_to(pid, id)))
    end
  end

  defp send_to(pid, id) do
    for _ <- 1..@sent, do: send(pid, {:request, :lists.seq(1, 50)})
    # For a dead receiver, this counts for a culprit that is over anyway.
    Progress.add(id, @sent_bytes)
    @sent_bytes
  end
end

defmodule Arena.Shapes.Spawn do
  @moduledoc false
  # Short-lived processes without end: each holds about 10 KB and lives for a second. The
  # processes end with the worker that started them, and know nothing of OOM.
  @behaviour Arena.Shape

  @life_ms 1_000

  @impl true
  def new(_id, _job), do: 0

  @impl true
  def step(n) do
    for _ <- 1..20, do: spawn_link(&live/0)
    {20 * 10_000, n + 20}
  rescue
    # The table of processes is full, which ends no worker in real life either.
    SystemLimitError -> Process.sleep(1) && {1, n}
  end

  defp live do
    held = :lists.seq(1, 400)
    Process.sleep(@life_ms)
    length(held)
  end
end
