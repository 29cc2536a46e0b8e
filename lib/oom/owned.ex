defmodule OOM.Owned do
  @moduledoc false
  # What workers hold that `process_info` does not tell: ETS tables they own, output that waits in
  # their ports, and the processes they started. Reading it asks no worker, so all of it is read at
  # the beginning of a pass, by throw-away processes, one for each kind; the probes add the figure
  # to what the worker itself tells.

  alias OOM.Owned.{Children, Ports, Tables}

  @type kind :: :tables | :ports | :children
  @typedoc "What one worker holds of a kind: bytes, and what the kill should know of them."
  @type holding :: {pid(), bytes :: non_neg_integer(), detail :: term()}

  @doc "All holdings of registered workers."
  @callback read() :: [holding()]

  @kinds [tables: Tables, ports: Ports, children: Children]

  # Between two readings at least so many times what the last one took: among 100,000 processes that
  # is a tenth of a second. While it is critical no more than that; figures that are older let
  # growth pass that could have been seen.
  @times %{normal: 4, elevated: 4, high: 2, critical: 1}

  @doc "The bytes it holds besides its own memory, as of the last readings."
  @spec bytes(pid()) :: non_neg_integer()
  def bytes(pid), do: bytes(pid, :tables) + bytes(pid, :ports) + bytes(pid, :children)

  @doc "The ports of a worker whose output waits."
  @spec ports(pid()) :: [port()]
  def ports(pid) do
    case :ets.lookup(__MODULE__, {:ports, pid}) do
      # It may have given one away since.
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

  @doc "Whether a kind should be read again, which was last read then, and took so long."
  @spec due?({begun_ms :: integer(), ended_ms :: integer()} | nil, integer(), OOM.level()) ::
          boolean()
  def due?(nil, _now_ms, _level), do: true

  def due?({begun, ended}, now_ms, level),
    do: now_ms - ended >= @times[level] * (ended - begun)

  @doc "Starts a reading."
  @spec start(kind()) :: {pid(), reference()}
  def start(kind),
    do: :erlang.spawn_opt(__MODULE__, :read, [kind], [:monitor, priority: :high])

  @doc false
  @spec read(kind()) :: :ok
  def read(kind), do: OOM.Tables.while_there(fn -> write(kind, @kinds[kind].read()) end)

  defp write(kind, holdings) do
    # Tells this reading's rows from those of the last.
    reading = System.unique_integer([:monotonic])
    for {pid, bytes, detail} <- holdings, do: insert(kind, pid, bytes, detail, reading)

    # What was given up since, and owners that are gone.
    old = [{{{kind, :_}, :_, :_, :"$1"}, [{:<, :"$1", reading}], [true]}]
    :ets.select_delete(__MODULE__, old)
  end

  defp insert(kind, pid, bytes, detail, reading),
    do: :ets.insert(__MODULE__, {{kind, pid}, bytes, detail, reading})

  @doc "The same, of one kind."
  @spec bytes(pid(), kind()) :: non_neg_integer()
  def bytes(pid, kind) do
    case :ets.lookup(__MODULE__, {kind, pid}) do
      [{_, bytes, _, _}] -> bytes
      [] -> 0
    end
  end
end
