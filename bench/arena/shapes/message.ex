defmodule Arena.Shapes.Mailbox do
  @moduledoc false
  # Unthrottled clients send to slow workers. The clients do not leak: a client holds
  # nothing, and is not registered.
  @behaviour Arena.Shape

  alias Arena.Sender

  # Lists of 50, copied, with their envelopes.
  @sent 100
  @sent_bytes @sent * 900

  @impl true
  def new(_id, _job), do: nil

  @impl true
  def step(nil), do: :rest

  @impl true
  def outside(job) do
    Sender.start(job, fn pid ->
      for _ <- 1..@sent, do: send(pid, {:request, :lists.seq(1, 50)})
      @sent_bytes
    end)
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
