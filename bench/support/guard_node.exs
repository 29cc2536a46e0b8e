defmodule Guard.Sleeper do
  @moduledoc false
  # Does nothing, for so many ms.
  use GenServer

  def start_link(life_ms), do: GenServer.start_link(__MODULE__, life_ms)

  @impl true
  def init(:infinity), do: {:ok, nil}

  def init(life_ms) do
    Process.send_after(self(), :end, life_ms)
    {:ok, nil}
  end

  @impl true
  def handle_info(:end, state), do: {:stop, :normal, state}
end

defmodule Guard.Node do
  @moduledoc false
  # The VM under test in bench/guard.exs.

  alias Guard.Sleeper

  @supervisor_children 10_000
  @churning 10
  @tick_ms 10
  @life_ms 1_000

  @doc "Starts so many sleepers, under supervisors that stay."
  def start(mode, count) do
    for first <- 1..count//@supervisor_children do
      last = min(first + @supervisor_children - 1, count)
      children = for id <- first..last, do: spec(id, :infinity, :permanent)
      stays(fn -> supervisor(mode).start_link(children, strategy: :one_for_one) end)
    end

    :ok
  end

  @doc "Starts so many sleepers a second, each ending a second later."
  def churn(mode, per_s) do
    counter = :counters.new(1, [:write_concurrency])
    :persistent_term.put(__MODULE__, counter)

    for _ <- 1..@churning do
      stays(fn ->
        {:ok, supervisor} = supervisor(mode).start_link([], strategy: :one_for_one)
        per_tick = div(per_s * @tick_ms, 1_000 * @churning)
        {:ok, spawn(fn -> drive(supervisor, per_tick, counter, now()) end)}
      end)
    end

    :ok
  end

  @doc "Returns the number of sleepers started so far."
  def started, do: :counters.get(:persistent_term.get(__MODULE__), 1)

  defp drive(supervisor, per_tick, counter, due) do
    for _ <- 1..per_tick do
      id = System.unique_integer()
      {:ok, _} = Supervisor.start_child(supervisor, spec(id, @life_ms, :temporary))
      :counters.add(counter, 1, 1)
    end

    # At the appointed time, so the rate does not depend on the duration of a start.
    due = due + @tick_ms
    Process.sleep(max(due - now(), 0))
    drive(supervisor, per_tick, counter, due)
  end

  defp spec(id, life_ms, restart),
    do: %{id: id, start: {Sleeper, :start_link, [life_ms]}, restart: restart}

  defp supervisor(:without), do: Supervisor
  defp supervisor(:with), do: OOM.Supervisor

  # A supervisor ends with its starter; this process waits for ever.
  defp stays(fun) do
    parent = self()

    spawn(fn ->
      send(parent, {:started, fun.()})
      Process.sleep(:infinity)
    end)

    receive(do: ({:started, {:ok, _}} -> :ok))
  end

  defp now, do: System.monotonic_time(:millisecond)
end
