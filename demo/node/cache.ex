defmodule Demo.Node.Cache do
  @moduledoc false
  # The worker at `:normal`: at its start loads most of half the limit, as fast as possible, and
  # answers from memory throughout. A guard mistaking a large worker for a leak kills the cache.

  use GenServer

  alias Demo.Node.Witness

  @row_bytes 4_096

  def start_link(bytes), do: GenServer.start_link(__MODULE__, bytes)

  @doc "Looks up a row, and tells whether the row is intact."
  def sound?(pid, n, timeout) do
    case GenServer.call(pid, {:get, n}, timeout) do
      # Not yet loaded.
      nil -> true
      value -> value == row(n)
    end
  end

  @doc "Counts the intact rows; returns their number."
  def sound(pid), do: GenServer.call(pid, :sound, 60_000)

  @doc "Returns the number of rows in so many bytes."
  def rows(bytes), do: div(bytes, @row_bytes)

  @impl true
  def init(bytes) do
    Witness.up(:normal, 1)
    table = :ets.new(:cache, [:set, :protected])
    {:ok, {table, rows(bytes)}, {:continue, :load}}
  end

  @impl true
  def handle_continue(:load, {table, rows}) do
    for n <- 0..(rows - 1), do: :ets.insert(table, {n, row(n)})
    Witness.loaded()
    {:noreply, {table, rows}}
  end

  @impl true
  def handle_call({:get, n}, _from, {table, rows} = state) do
    row =
      case :ets.lookup(table, rem(n, rows)) do
        [{_, row}] -> row
        [] -> nil
      end

    {:reply, row, state}
  end

  def handle_call(:sound, _from, {table, _} = state) do
    sound =
      :ets.foldl(fn {n, row}, count -> if row == row(n), do: count + 1, else: count end, 0, table)

    {:reply, sound, state}
  end

  # A binary outside of every heap.
  defp row(n), do: :binary.copy(<<n::32>>, div(@row_bytes, 4))
end
