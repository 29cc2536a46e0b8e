defmodule OOM.Owned do
  @moduledoc false
  # Memory of workers outside `process_info`: owned ETS tables, output waiting in owned ports, and the
  # processes a worker started. A reading asks no worker, so a pass begins with the readings of all kinds,
  # each in a throw-away process; the probes add the figure to the worker's own.

  alias OOM.Owned.{Children, Ports, Tables}
  alias OOM.Steps

  @type kind :: :tables | :ports | :children
  @typedoc "A worker's holding of a kind: bytes, and details for the kill."
  @type holding :: {pid(), bytes :: non_neg_integer(), detail :: term()}

  @doc "Returns all holdings of registered workers."
  @callback read() :: [holding()]

  @kinds [tables: Tables, ports: Ports, children: Children]

  # The pause between two readings is at least so many times the duration of the last: among 100,000
  # processes a reading takes a tenth of a second. At `:critical` the factor is 1: older figures would hide
  # growth.
  @times %{normal: 4, elevated: 4, high: 2, critical: 1}

  @doc "Returns the bytes a worker holds besides the process's own memory, as of the last readings."
  @spec bytes(pid()) :: non_neg_integer()
  def bytes(pid), do: bytes(pid, :tables) + bytes(pid, :ports) + bytes(pid, :children)

  @doc "Returns the ports of a worker with waiting output."
  @spec ports(pid()) :: [port()]
  def ports(pid) do
    case :ets.lookup(__MODULE__, {:ports, pid}) do
      # The worker may have given a port away since.
      [{_, _, ports, _}] ->
        Enum.filter(ports, &(:erlang.port_info(&1, :connected) == {:connected, pid}))

      [] ->
        []
    end
  rescue
    # The application is being stopped.
    ArgumentError -> []
  end

  @spec kinds() :: [kind()]
  def kinds, do: Keyword.keys(@kinds)

  @doc "Tells whether a kind is due for another reading, given begin and end of the last reading."
  @spec due?({begun_ms :: integer(), ended_ms :: integer()} | nil, integer(), OOM.level()) ::
          boolean()
  def due?(nil, _now_ms, _level), do: true

  def due?({begun, ended}, now_ms, level),
    do: now_ms - ended >= @times[level] * (ended - begun)

  @doc "Starts a reading in a throw-away process."
  @spec start(kind()) :: {pid(), reference()}
  def start(kind),
    do: :erlang.spawn_opt(__MODULE__, :read, [kind], [:monitor, priority: :high])

  @doc false
  @spec read(kind()) :: :ok
  def read(kind), do: OOM.Tables.while_there(fn -> write(kind, @kinds[kind].read()) end)

  defp write(kind, holdings) do
    # Tells the rows of this reading from older rows.
    reading = System.unique_integer([:monotonic])
    for {pid, bytes, detail} <- holdings, do: insert(kind, pid, bytes, detail, reading)

    # Rows of holdings given up since, and of owners gone.
    old = [{{{kind, :_}, :_, :_, :"$1"}, [{:<, :"$1", reading}], [true]}]
    :ets.select_delete(__MODULE__, old)
  end

  defp insert(kind, pid, bytes, detail, reading),
    do: :ets.insert(__MODULE__, {{kind, pid}, bytes, detail, reading})

  @doc "Returns the bytes a worker holds of one kind, as of the last reading."
  @spec bytes(pid(), kind()) :: non_neg_integer()
  def bytes(pid, kind) do
    case :ets.lookup(__MODULE__, {kind, pid}) do
      [{_, bytes, _, _}] -> bytes
      [] -> 0
    end
  end

  @doc """
  Returns the last reading of a worker's children: the live part of the heap with the largest step, that step,
  both in bytes, and a number of the reading.
  """
  @spec children(pid()) :: {non_neg_integer(), non_neg_integer(), integer()}
  def children(pid) do
    case :ets.lookup(__MODULE__, {:children, pid}) do
      [{_, _bytes, {live, step, _pid}, reading}] -> {live, step, reading}
      [] -> {0, 0, 0}
    end
  end

  @doc "Returns the child of a worker that takes the largest step; `nil` where no step matters."
  @spec hand(pid()) :: pid() | nil
  def hand(pid) do
    with [{_, _bytes, {_live, step, hand}, _reading}] <-
           :ets.lookup(__MODULE__, {:children, pid}),
         true <- step >= Steps.matters_bytes() do
      hand
    else
      _small_or_none -> nil
    end
  end

  @doc "Returns the bytes that all workers hold of one kind, as of the last reading."
  @spec sum(kind()) :: non_neg_integer()
  def sum(kind) do
    OOM.Owned
    |> :ets.select([{{{kind, :_}, :"$1", :_, :_}, [], [:"$1"]}])
    |> Enum.sum()
  end
end
