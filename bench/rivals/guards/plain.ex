defmodule Rivals.Plain do
  @moduledoc false
  # No guard: what OTP does alone. The supervisors of all rivals are its, too.
  @behaviour Arena.Guard

  alias Rivals.Largest

  @impl true
  def start(_arg, _job), do: :ok

  # A supervisor that gives up takes the VM with it, and the guard would get the blame for that.
  @restarts [max_restarts: 1_000_000, max_seconds: 1]

  @impl true
  def supervisor(children, oom) do
    {:ok, pid} = Supervisor.start_link(children, [strategy: :one_for_one] ++ @restarts)
    unless oom[:priority] == :protected, do: Largest.killable(pid)
    {:ok, pid}
  end
end
