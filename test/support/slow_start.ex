defmodule OOM.Test.SlowStart do
  @moduledoc false
  # A child that stays in its start until told to go on, below a DynamicSupervisor.

  import OOM.Test.Eventually

  @doc "Starts the child; returns it, in its start, and the task that waits for the start."
  @spec begin(pid()) :: {pid(), Task.t()}
  def begin(supervisor) do
    test = self()

    init = fn ->
      send(test, {__MODULE__, self()})
      receive(do: (:go_on -> :ok))
    end

    spec = %{id: :slow, start: {Agent, :start_link, [init, [timeout: :infinity]]}}
    start = Task.async(fn -> DynamicSupervisor.start_child(supervisor, spec) end)
    pid = receive(do: ({__MODULE__, pid} -> pid))
    eventually(fn -> Process.info(pid, :status) == {:status, :waiting} end)
    {pid, start}
  end

  @doc "Lets the start go on; returns what the starter was told."
  @spec go_on({pid(), Task.t()}) :: DynamicSupervisor.on_start_child()
  def go_on({pid, start}) do
    send(pid, :go_on)
    Task.await(start)
  end
end
