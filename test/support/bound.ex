defmodule OOM.Test.Bound do
  @moduledoc false
  # Runs inside a limited VM: a protected worker that would end with workers of the lowest
  # priority, in several ways, and beside them an equally low worker without bonds. Both low
  # workers grow alike.

  @pause_ms 20
  @chunk :binary.copy(<<1>>, 1_024)

  defmodule Protected do
    @moduledoc false
    use GenServer
    alias OOM.Test.Bound

    def start_link(kind), do: GenServer.start_link(__MODULE__, kind, name: __MODULE__)

    @impl true
    def init(:helper) do
      {:ok, _} = Bound.Grower.start_link(Bound)
      {:ok, :helper}
    end

    def init(kind), do: {:ok, kind, {:continue, kind}}

    @impl true
    def handle_continue(:stream, kind) do
      OOM.Test.Bound.Tasks
      |> Task.Supervisor.async_stream(1..2, fn _ -> Bound.grow([], 80) end, timeout: :infinity)
      |> Stream.run()

      {:noreply, kind}
    end

    # As in a call: waits for an answer, and fails without an answer.
    def handle_continue(:call, kind) do
      :never = GenServer.call(Bound, :grow, :infinity)
      {:noreply, kind}
    end

    def handle_continue(:link, kind) do
      Process.link(Process.whereis(Bound))
      {:noreply, kind}
    end
  end

  defmodule Grower do
    @moduledoc false
    use GenServer
    alias OOM.Test.Bound

    def start_link(name), do: GenServer.start_link(__MODULE__, name, name: name)

    @impl true
    def init(name) do
      OOM.set_priority(:low)
      # The worker without bonds holds less, so it is not the first by size.
      mib = if name == Bound, do: 60, else: 5
      {:ok, for(_ <- 1..mib, do: Bound.mib()), {:continue, name}}
    end

    @impl true
    def handle_continue(_name, data) do
      Process.send_after(self(), :grow, 20)
      {:noreply, data}
    end

    @impl true
    def handle_info(:grow, data) do
      Process.send_after(self(), :grow, 20)
      {:noreply, if(Bound.grows?(), do: [Bound.mib() | data], else: data)}
    end

    # Never answers.
    @impl true
    def handle_call(:grow, _from, data), do: {:noreply, data}
  end

  @doc "Starts all workers; `kind` is the bond of the protected worker."
  @spec start(:link | :helper | :stream | :call) :: :ok
  def start(kind) do
    :persistent_term.put(__MODULE__, true)
    grower = fn name -> %{id: name, start: {Grower, :start_link, [name]}} end
    tasks = OOM.child_spec({Task.Supervisor, name: __MODULE__.Tasks}, priority: :low)
    bound = if kind in [:link, :call], do: [grower.(__MODULE__)], else: []
    protected = OOM.child_spec({Protected, kind}, priority: :protected)
    children = [tasks] ++ bound ++ [protected, grower.(__MODULE__.Free)]
    test = self()

    spawn(fn ->
      Process.flag(:trap_exit, true)

      {:ok, _} =
        OOM.Supervisor.start_link(children,
          strategy: :one_for_one,
          oom: [backoff: [initial_ms: 1_000_000_000, max_ms: 1_000_000_000]]
        )

      send(test, :started)
      Process.sleep(:infinity)
    end)

    receive(do: (:started -> :ok))
  end

  @doc """
  Waits until the guard ends the worker without bonds, and stops all growth then. Returns the
  reason of the end, whether the protected worker is the same process, and the held ids.
  """
  @spec await() :: {reason :: term(), same? :: boolean(), held :: [term()]}
  def await do
    protected = Process.whereis(Protected)
    ref = Process.monitor(__MODULE__.Free)

    reason =
      receive do
        {:DOWN, ^ref, _, _, reason} -> reason
      end

    :persistent_term.put(__MODULE__, false)
    await_held()
    {reason, Process.whereis(Protected) == protected, for(held <- OOM.held(), do: held.id)}
  end

  defp await_held do
    if OOM.held() == [] do
      Process.sleep(@pause_ms)
      await_held()
    end
  end

  @doc false
  # A growing task, which stops growing with the rest of the workers and stays.
  @spec grow([binary()], non_neg_integer()) :: no_return()
  def grow(data, mib) when mib > 0, do: grow([mib() | data], mib - 1)

  def grow(data, 0) do
    Process.sleep(@pause_ms)
    grow(if(grows?(), do: [mib() | data], else: data), 0)
  end

  @doc false
  @spec grows?() :: boolean()
  def grows?, do: :persistent_term.get(__MODULE__)

  @doc false
  @spec mib() :: binary()
  def mib, do: :binary.copy(@chunk, 1_024)
end
