defmodule OOM.Test.Nested do
  @moduledoc false
  # Runs inside a limited VM: a worker that starts a supervisor of its own, and below that supervisor a
  # process that traps exits, may take half a minute to leave, and grows in a single callback.

  @pause_ms 20

  defmodule Grower do
    @moduledoc false
    use GenServer

    def start_link(bytes_per_s), do: GenServer.start_link(__MODULE__, bytes_per_s)

    @impl true
    def init(bytes_per_s) do
      Process.flag(:trap_exit, true)
      {:ok, [], {:continue, bytes_per_s}}
    end

    @impl true
    def handle_continue(bytes_per_s, data), do: grow(div(bytes_per_s, 100 * 16), data)

    defp grow(cells, data) do
      more = Enum.to_list(1..cells)
      Process.sleep(10)
      grow(cells, [more | data])
    end
  end

  defmodule Owner do
    @moduledoc false
    use GenServer

    def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

    @impl true
    def init({bytes_per_s, trap?}) do
      Process.flag(:trap_exit, trap?)
      grower = Supervisor.child_spec({Grower, bytes_per_s}, shutdown: 30_000)
      {:ok, supervisor} = Supervisor.start_link([grower], strategy: :one_for_one)
      [{_, pid, _, _}] = Supervisor.which_children(supervisor)
      :persistent_term.put(OOM.Test.Nested, pid)
      {:ok, nil}
    end
  end

  @doc "Starts the owner as a worker or as a unit; the grower takes so many bytes each second."
  @spec start(:worker | :unit, boolean(), pos_integer()) :: :ok
  def start(kind, trap?, bytes_per_s) do
    spec = %{id: :owner, start: {Owner, :start_link, [{bytes_per_s, trap?}]}}

    spec =
      if kind == :unit,
        do: OOM.child_spec(Map.put(spec, :type, :supervisor), unit: true),
        else: spec

    test = self()

    spawn(fn ->
      options = [strategy: :one_for_one, oom: [backoff: [initial_ms: 60_000, max_ms: 60_000]]]
      {:ok, _} = OOM.Supervisor.start_link([spec], options)
      send(test, :started)
      Process.sleep(:infinity)
    end)

    receive(do: (:started -> :ok))
  end

  @doc "Waits until the first grower has ended and a child is held."
  @spec await_end() :: :ok
  def await_end do
    if Process.alive?(:persistent_term.get(__MODULE__)) or OOM.held() == [] do
      Process.sleep(@pause_ms)
      await_end()
    else
      :ok
    end
  end
end
