defmodule OOM.Test.Heaps do
  @moduledoc false
  # Runs inside a limited VM: a worker whose heap grows by small terms, on request.

  use GenServer

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Starts the worker below a separate OOM.Supervisor."
  @spec start(keyword()) :: pid()
  def start(options) do
    test = self()

    spawn(fn ->
      Process.flag(:trap_exit, true)
      child = OOM.child_spec({__MODULE__, nil}, options)
      {:ok, _} = OOM.Supervisor.start_link([child], strategy: :one_for_one)
      send(test, {:started, Process.whereis(__MODULE__)})
      Process.sleep(:infinity)
    end)

    receive(do: ({:started, pid} -> pid))
  end

  @doc "Adds so many times 100,000 tuples, 4.8 MB each time."
  @spec grow(pos_integer()) :: :ok
  def grow(steps) do
    for _ <- 1..steps do
      :ok = GenServer.call(__MODULE__, :grow, :infinity)
      Process.sleep(20)
    end

    :ok
  end

  @doc "Waits until the worker's cap is this, in bytes."
  @spec await_cap(non_neg_integer()) :: :ok
  def await_cap(bytes) do
    {_, info} = Process.info(Process.whereis(__MODULE__), :garbage_collection)

    if info[:max_heap_size].size * 8 != bytes do
      Process.sleep(20)
      await_cap(bytes)
    else
      :ok
    end
  end

  @doc """
  Makes the worker take large binaries in a loop without other calls, so no signal gets through,
  and returns the exit reason.
  """
  @spec slice() :: term()
  def slice do
    ref = Process.monitor(__MODULE__)
    GenServer.cast(__MODULE__, :slice)
    receive(do: ({:DOWN, ^ref, _, _, reason} -> reason))
  end

  @impl true
  def init(nil), do: {:ok, []}

  @impl true
  def handle_cast(:slice, data), do: slice(data)

  defp slice(data), do: slice([<<0::size(8_388_608)>> | data])

  @impl true
  def handle_call(:grow, _from, data),
    do: {:reply, :ok, Enum.reduce(1..100_000, data, &[{&1, &1, &1} | &2])}
end
