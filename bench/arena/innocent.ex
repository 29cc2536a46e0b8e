defmodule Arena.Innocent do
  @moduledoc false
  # A worker that holds its state, does a little with it now and then, answers, and never grows
  # once it holds what it was told to.

  use GenServer

  alias Arena.Witness

  @every_ms 100
  @piece_bytes 65_536

  @table __MODULE__

  @doc "Before any of them starts."
  def setup, do: :ets.new(@table, [:named_table, :public, read_concurrency: true])

  def start_link({kind, id, bytes}), do: GenServer.start_link(__MODULE__, {kind, id, bytes})

  @doc "What it can take more of, at least."
  def piece_bytes, do: @piece_bytes

  @doc "Holds so much more in binaries, which are written to; the kernel would not count them else."
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
    # Those that stand by at :low are not asked.
    if kind == :normal, do: :ets.insert(@table, {id, self()})
    Witness.up(kind, id)
    Process.send_after(self(), :work, @every_ms + id)
    {:ok, {:lists.seq(1, div(bytes, 16)), []}}
  end

  @impl true
  def handle_call(:ask, _from, state), do: {:reply, :ok, state}

  def handle_call({:hold, bytes}, _from, {list, pieces}) do
    more = for _ <- 1..div(bytes, @piece_bytes)//1, do: :binary.copy(<<1>>, @piece_bytes)
    {:reply, :ok, {list, more ++ pieces}}
  end

  @impl true
  def handle_info(:work, {list, _} = state) do
    Process.send_after(self(), :work, @every_ms)
    _ = Enum.take(list, 10)
    {:noreply, state}
  end
end
