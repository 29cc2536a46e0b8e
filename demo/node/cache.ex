defmodule Demo.Node.Cache do
  @moduledoc false
  # One of the ten at `:high`: holds more than a connection does, and answers from it throughout.

  use GenServer

  alias Demo.Node.Witness

  @rows 10_000

  def start_link(id), do: GenServer.start_link(__MODULE__, id)

  def get(pid, key, timeout), do: GenServer.call(pid, {:get, rem(key, @rows)}, timeout)

  @impl true
  def init(id) do
    Witness.up(:high, id)
    {:ok, Map.new(0..(@rows - 1), &{&1, {:row, &1, &1 * id}})}
  end

  @impl true
  def handle_call({:get, key}, _from, rows), do: {:reply, Map.fetch!(rows, key), rows}
end
