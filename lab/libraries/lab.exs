defmodule Lab do
  # What all scenarios share: leaks, processes that must not notice, and the verdict. The argument of a leak is
  # its rate in MB/s.

  @step_bytes 262_144
  @words div(@step_bytes, 16)

  def start do
    {:ok, _} = Application.ensure_all_started(:oom)
    :ok
  end

  # The tree under test beside a protected process; the starter may end, the tree stays.
  def tree(children) do
    parent = self()

    spawn(fn ->
      protected =
        OOM.child_spec(
          %{id: :protected, start: {Agent, :start_link, [fn -> 42 end, [name: :protected]]}},
          priority: :protected
        )

      {:ok, pid} = OOM.Supervisor.start_link([protected | children], strategy: :one_for_one)
      send(parent, {:tree, pid})
      Process.sleep(:infinity)
    end)

    receive(do: ({:tree, pid} -> pid))
  end

  # Never returns. Each list is built anew: 16 bytes an element, on the caller's heap.
  def leak(rate), do: leak(rate, [], System.monotonic_time(:microsecond))

  defp leak(rate, kept, due_us) do
    kept = [Enum.to_list(1..@words) | kept]
    due_us = due_us + div(@step_bytes, rate)
    ahead_ms = div(due_us - System.monotonic_time(:microsecond), 1_000)
    if ahead_ms > 0, do: Process.sleep(ahead_ms)
    leak(rate, kept, due_us)
  end

  # Facts as NAME=VALUE, and `well` or `not well`.
  def verdict(facts, well?) do
    kept = Process.whereis(:protected) != nil and Agent.get(:protected, & &1) == 42
    facts = facts ++ [protected: kept, held: length(OOM.held()), level: OOM.level()]

    IO.puts(
      "lab: #{if well? and kept, do: "well", else: "not well"}: " <>
        Enum.map_join(facts, " ", fn {k, v} -> "#{k}=#{v}" end)
    )

    System.halt(0)
  end

  def alive(pids), do: Enum.count(pids, &Process.alive?/1)
end

defmodule Lab.Worker do
  use GenServer
  def start_link(arg), do: GenServer.start_link(__MODULE__, arg)
  def init({:leak, rate}), do: {:ok, rate, {:continue, :leak}}
  def init(other), do: {:ok, other}
  def handle_continue(:leak, rate), do: {:noreply, Lab.leak(rate)}
  def handle_cast({:leak, rate}, _state), do: {:noreply, Lab.leak(rate)}
  def handle_call(:ping, _from, state), do: {:reply, :pong, state}
end
