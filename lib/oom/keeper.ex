defmodule OOM.Keeper do
  @moduledoc false
  # Stands between the application's supervisor and the parts. In a release, an application that ends takes
  # the node down, so a part that keeps crashing must not end the application. The keeper starts the parts
  # again after a pause, as often as needed, and logs each failure.

  use GenServer

  require OOM.Log, as: Log

  @pause_ms 5_000
  # The parts of a killed keeper are on their way out.
  @leaving_ms 10

  @spec start_link([Supervisor.child_spec() | {module(), term()} | module()]) ::
          GenServer.on_start()
  def start_link(parts), do: GenServer.start_link(__MODULE__, parts, name: __MODULE__)

  @impl true
  def init(parts) do
    Process.flag(:trap_exit, true)
    {:ok, start(%{parts: parts, supervisor: nil})}
  end

  @impl true
  def handle_info({:EXIT, pid, reason}, %{supervisor: pid} = state) do
    again(reason)
    {:noreply, %{state | supervisor: nil}}
  end

  def handle_info(:start, %{supervisor: nil} = state), do: {:noreply, start(state)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{supervisor: nil}), do: :ok
  def terminate(_reason, %{supervisor: pid}), do: Supervisor.stop(pid, :shutdown)

  defp start(state) do
    case Supervisor.start_link(state.parts, strategy: :one_for_one, max_restarts: 20) do
      {:ok, pid} ->
        %{state | supervisor: pid}

      {:error, {:shutdown, {:failed_to_start_child, _, {:already_started, _}}}} ->
        Process.send_after(self(), :start, @leaving_ms)
        state

      {:error, reason} ->
        again(reason)
        state
    end
  end

  defp again(reason) do
    Log.error(
      "OOM: the guard is down (#{inspect(reason, limit: 20, printable_limit: 500)}); " <>
        "trying again in #{div(@pause_ms, 1_000)} s"
    )

    Process.send_after(self(), :start, @pause_ms)
  end
end
