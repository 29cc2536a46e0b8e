defmodule OOM.Test.Crowd do
  @moduledoc false
  # Starts ever more workers of one size below a plain DynamicSupervisor, in a limited VM of a test or of
  # bench/crowd.exs. No worker grows after its start.

  use GenServer

  @doc "Starts the tree, and `count` workers of `kib` KiB, so many a second; returns the first `first` pids."
  @spec flood(OOM.priority(), pos_integer(), pos_integer(), pos_integer(), pos_integer()) ::
          [pid()]
  def flood(priority, count, per_second, kib, first) do
    connections = {DynamicSupervisor, name: __MODULE__, strategy: :one_for_one}
    options = [strategy: :one_for_one]

    between = %{
      id: :between,
      type: :supervisor,
      start: {Supervisor, :start_link, [[connections], options]}
    }

    {:ok, top} = OOM.Supervisor.start_link([OOM.child_spec(between, priority: priority)], options)
    Process.unlink(top)
    begun = System.monotonic_time(:millisecond)
    spec = %{id: :one, start: {__MODULE__, :start_link, [kib]}, restart: :temporary}

    Enum.reduce(1..count, [], fn number, pids ->
      ahead_ms = begun + div(number * 1_000, per_second) - System.monotonic_time(:millisecond)
      if ahead_ms > 0, do: Process.sleep(ahead_ms)

      case DynamicSupervisor.start_child(__MODULE__, spec) do
        {:ok, pid} when number <= first -> [pid | pids]
        {:ok, _pid} -> pids
        # Ended by the guard before the start was over.
        {:error, {:shutdown, :memory_pressure}} -> pids
        {:error, :killed} -> pids
      end
    end)
  end

  @spec start_link(pos_integer()) :: GenServer.on_start()
  def start_link(kib), do: GenServer.start_link(__MODULE__, kib)

  @impl true
  def init(kib), do: {:ok, Enum.to_list(1..(kib * 64))}

  @doc "Returns how many of these processes live, and how many workers there are."
  @spec alive([pid()]) :: {non_neg_integer(), non_neg_integer()}
  def alive(pids) do
    {Enum.count(pids, &Process.alive?/1), DynamicSupervisor.count_children(__MODULE__).active}
  end
end
