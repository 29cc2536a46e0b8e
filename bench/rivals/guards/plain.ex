defmodule Rivals.Plain do
  @moduledoc false
  # No guard: OTP alone. All rivals use these supervisors, too.
  @behaviour Arena.Guard

  alias Rivals.Largest

  @impl true
  def start(_arg, _job), do: :ok

  # A supervisor giving up takes the VM down, and the guard would get the blame.
  @restarts [max_restarts: 1_000_000, max_seconds: 1]

  @impl true
  def supervisor(children, oom) do
    {:ok, pid} = Supervisor.start_link(children, [strategy: :one_for_one] ++ @restarts)
    unless oom[:priority] == :protected, do: Largest.killable(pid)
    {:ok, pid}
  end
end
