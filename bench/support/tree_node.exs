defmodule Tree.Node do
  @moduledoc false
  # The VM under test in bench/tree.exs.

  defmodule Conn do
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

  @supervisors 10
  @tick_ms 10

  @doc "Starts a supervisor, below it ten DynamicSupervisors, below these `count` lasting connections."
  def start(mode, count) do
    parent = self()

    spawn(fn ->
      {:ok, top} = supervisor(mode).start_link(dynamic(), strategy: :one_for_one)
      send(parent, {:top, top})
      Process.sleep(:infinity)
    end)

    top = receive(do: ({:top, top} -> top))
    pids = for {_, pid, _, _} <- Supervisor.which_children(top), do: pid
    :persistent_term.put(__MODULE__, pids)
    for pid <- pids, _ <- 1..div(count, @supervisors)//1, do: {:ok, _} = connect(pid, :infinity)
    :ok
  end

  @doc "Starts so many connections a second, each ending after `life_ms`."
  def churn(per_s, life_ms) do
    for pid <- :persistent_term.get(__MODULE__) do
      per_tick = div(per_s * @tick_ms, 1_000 * @supervisors)
      spawn(fn -> drive(pid, per_tick, life_ms, now()) end)
    end

    :ok
  end

  @doc "Returns the numbers of registered and of living workers."
  def counts do
    live =
      for pid <- :persistent_term.get(__MODULE__),
          do: DynamicSupervisor.count_children(pid).active

    registered = if :ets.whereis(OOM.Workers) == :undefined, do: 0, else: OOM.Workers.count()
    {registered, Enum.sum(live)}
  end

  @doc "Returns the ms of a first walk, which finds nobody new, and of the walk after it."
  def walk do
    settled = OOM.Tree.Settled.new()
    {first_us, _} = :timer.tc(fn -> OOM.Tree.Walk.run(settled) end)
    {next_us, _} = :timer.tc(fn -> OOM.Tree.Walk.run(settled) end)
    {first_us / 1_000, next_us / 1_000}
  end

  defp drive(supervisor, per_tick, life_ms, due) do
    for _ <- 1..per_tick, do: {:ok, _} = connect(supervisor, life_ms)
    # At the appointed time, so the rate does not depend on the duration of a start.
    due = due + @tick_ms
    Process.sleep(max(due - now(), 0))
    drive(supervisor, per_tick, life_ms, due)
  end

  defp connect(supervisor, life_ms) do
    spec = %{id: Conn, start: {Conn, :start_link, [life_ms]}, restart: :temporary}
    DynamicSupervisor.start_child(supervisor, spec)
  end

  defp dynamic do
    for i <- 1..@supervisors,
        do: Supervisor.child_spec({DynamicSupervisor, strategy: :one_for_one}, id: i)
  end

  defp supervisor(:without), do: Supervisor
  defp supervisor(:with), do: OOM.Supervisor

  defp now, do: System.monotonic_time(:millisecond)
end
