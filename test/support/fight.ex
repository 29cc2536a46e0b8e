defmodule OOM.Test.Fight do
  @moduledoc false
  # Runs inside a limited VM: more permanent workers allocating in `init/1` than the limit holds.
  # Reports the number running, the number held, and the time of each start.

  defmodule Worker do
    @moduledoc false
    use GenServer

    def start_link(bytes), do: GenServer.start_link(__MODULE__, bytes)

    @impl true
    def init(bytes) do
      :ets.insert(OOM.Test.Fight, {System.unique_integer([:monotonic]), now()})
      # In whole chunks: byte by byte takes an emulator longer than a fight may.
      chunk = :binary.copy(<<1>>, 1_024)
      {:ok, for(_ <- 1..div(bytes, 1_048_576), do: :binary.copy(chunk, 1_024))}
    end

    @impl true
    def handle_info(_message, data), do: {:noreply, data}

    defp now, do: System.monotonic_time(:millisecond)
  end

  @doc """
  Starts `count` workers of `bytes` each under a supervisor of `module`, and returns at once: the
  start alone may be the end of the VM.
  """
  @spec start(module(), pos_integer(), pos_integer()) :: pid()
  def start(module, count, bytes) do
    parent = self()

    pid =
      spawn(fn ->
        :ets.new(__MODULE__, [:public, :named_table, :ordered_set])
        Process.register(self(), __MODULE__)
        send(parent, :ready)
        children = for id <- 1..count, do: %{id: id, start: {Worker, :start_link, [bytes]}}
        # A plain supervisor must not give up before the memory does.
        flags = [
          strategy: :one_for_one,
          max_restarts: if(module == Supervisor, do: 100_000, else: 0)
        ]

        {:ok, supervisor} = module.start_link(children, flags)
        Process.register(supervisor, __MODULE__.Supervisor)
        Process.sleep(:infinity)
      end)

    receive do
      :ready -> pid
    end
  end

  @doc "Returns the present counts; times are milliseconds since the first start."
  @spec report() :: %{
          running: non_neg_integer(),
          down: non_neg_integer(),
          held: non_neg_integer(),
          starts_ms: [non_neg_integer()]
        }
  def report do
    counts = Supervisor.count_children(supervisor())
    starts = for {_, at} <- :ets.tab2list(__MODULE__), do: at

    %{
      running: counts.active,
      down: counts.specs - counts.active,
      held: OOM.Holds.count(),
      starts_ms: for(at <- starts, do: at - hd(starts))
    }
  end

  # Once all were started for the first time, a long wait where there is no room for all. The
  # starter ends with the supervisor.
  defp supervisor do
    cond do
      supervisor = Process.whereis(__MODULE__.Supervisor) -> supervisor
      Process.whereis(__MODULE__) -> await_supervisor()
      true -> raise "the supervisor has ended"
    end
  end

  defp await_supervisor do
    Process.sleep(20)
    supervisor()
  end
end
