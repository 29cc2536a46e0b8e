defmodule OOM.Owned do
  @moduledoc false
  # What workers hold in ETS tables they own. Asking a table costs no signal to its owner, so all
  # of them are read at the beginning of each pass, by a throw-away process; the probes add the
  # figure to what the worker's heap tells.

  alias OOM.Workers

  # More tables than this take too long to read with every pass under pressure; then only once in
  # a while, see `due?/2`. 10,000 took 4.4 ms here.
  @many_tables 10_000
  @many_every_ms 1_000

  @doc "The bytes in tables the process owns, as of the last reading."
  @spec bytes(pid()) :: non_neg_integer()
  def bytes(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, bytes, _}] -> bytes
      [] -> 0
    end
  end

  @doc "Whether the tables should be read again; `read_ms` is when they last were."
  @spec due?(integer() | nil, integer()) :: boolean()
  def due?(nil, _now_ms), do: true

  def due?(read_ms, now_ms) do
    now_ms - read_ms >= @many_every_ms or
      :erlang.system_info(:ets_count) < @many_tables
  end

  @doc "Starts a reading of all tables."
  @spec start() :: {pid(), reference()}
  def start, do: :erlang.spawn_opt(__MODULE__, :read, [], [:monitor, priority: :high])

  @doc false
  @spec read() :: :ok
  def read do
    # Tells this reading's rows from those of the last.
    reading = System.unique_integer([:monotonic])
    word = :erlang.system_info(:wordsize)

    for {owner, words} <- Enum.reduce(:ets.all(), %{}, &add/2),
        Workers.lookup(owner) != nil,
        do: :ets.insert(__MODULE__, {owner, words * word, reading})

    # Tables that were deleted or given away, and owners that are gone.
    :ets.select_delete(__MODULE__, [{{:_, :_, :"$1"}, [{:<, :"$1", reading}], [true]}])
    :ok
  end

  defp add(table, owners) do
    with owner when is_pid(owner) <- :ets.info(table, :owner),
         words when is_integer(words) <- :ets.info(table, :memory) do
      Map.update(owners, owner, words, &(&1 + words))
    else
      # Deleted in the meantime.
      _ -> owners
    end
  end
end
