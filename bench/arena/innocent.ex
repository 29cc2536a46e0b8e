defmodule Arena.Innocent do
  @moduledoc false
  # A worker with a steady state: works a little now and then, answers, and never grows beyond the
  # requested size.

  use GenServer

  alias Arena.Witness

  @every_ms 100
  @piece_bytes 65_536
  # Copied whole: byte by byte, the pieces of a run take longer than the rest of the run.
  @piece :binary.copy(<<1>>, @piece_bytes)

  @table __MODULE__

  @doc "Creates the table; called before the first worker starts."
  def setup, do: :ets.new(@table, [:named_table, :public, read_concurrency: true])

  def start_link({kind, id, bytes}), do: GenServer.start_link(__MODULE__, {kind, id, bytes})

  @doc "Returns the smallest amount a worker can take more of, in bytes."
  def piece_bytes, do: @piece_bytes

  @doc "Holds so many bytes more in binaries. Binaries are written to, or the kernel would not count them."
  @spec hold(pos_integer(), pos_integer(), timeout()) :: :ok | :dead | :timeout
  def hold(id, bytes, timeout), do: call(id, {:hold, bytes}, timeout)

  @spec ask(pos_integer(), timeout()) :: :ok | :dead | :timeout
  def ask(id, timeout), do: call(id, :ask, timeout)

  defp call(id, request, timeout) do
    case :ets.lookup(@table, id) do
      [{_, pid}] -> GenServer.call(pid, request, timeout)
      [] -> :dead
    end
  catch
    :exit, {:timeout, _} -> :timeout
    :exit, _ -> :dead
  end

  @impl true
  def init({kind, id, bytes}) do
    # :low workers on standby are not asked.
    if kind == :normal, do: :ets.insert(@table, {id, self()})
    Witness.up(kind, id)
    Process.send_after(self(), :work, @every_ms + id)
    {:ok, {:lists.seq(1, div(bytes, 16)), []}}
  end

  @impl true
  def handle_call(:ask, _from, state), do: {:reply, :ok, state}

  def handle_call({:hold, bytes}, _from, {list, pieces}) do
    more = for _ <- 1..div(bytes, @piece_bytes)//1, do: :binary.copy(@piece)
    {:reply, :ok, {list, more ++ pieces}}
  end

  @impl true
  def handle_info(:work, {list, _} = state) do
    Process.send_after(self(), :work, @every_ms)
    _ = Enum.take(list, 10)
    {:noreply, state}
  end
end
