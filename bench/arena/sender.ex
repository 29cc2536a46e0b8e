defmodule Arena.Sender do
  @moduledoc false
  # Clients that send to the growing workers in turn. The clients do not leak: a client holds nothing, and is
  # not registered.

  alias Arena.{Leaker, Pace, Progress}

  @doc "Starts a client for each scheduler. `send` sends once, and returns the bytes sent."
  @spec start(Arena.Job.t(), (pid() -> pos_integer())) :: :ok
  def start(job, send) do
    clients = System.schedulers_online()

    for n <- 1..clients do
      spawn_link(fn -> send_on(n, job.workers, send, Pace.new(job, clients)) end)
    end

    :ok
  end

  defp send_on(n, workers, send, pace) do
    id = rem(n, workers) + 1

    case Leaker.whereis(id) do
      # A client waits where nobody listens.
      nil ->
        Process.sleep(1)
        send_on(n + 1, workers, send, pace)

      pid ->
        bytes = send.(pid)
        # For a dead receiver, this counts for a culprit that is over anyway.
        Progress.add(id, bytes)
        send_on(n + 1, workers, send, Pace.wait(pace, bytes))
    end
  end
end
