defmodule Arena.Innocent do
  @moduledoc false
  # A worker that holds its state, does a little with it now and then, and never grows.

  use GenServer

  alias Arena.Witness

  @every_ms 100

  def start_link({kind, id, bytes}), do: GenServer.start_link(__MODULE__, {kind, id, bytes})

  @impl true
  def init({kind, id, bytes}) do
    Witness.up(kind, id)
    Process.send_after(self(), :work, @every_ms + id)
    {:ok, :lists.seq(1, div(bytes, 16))}
  end

  @impl true
  def handle_info(:work, list) do
    Process.send_after(self(), :work, @every_ms)
    _ = Enum.take(list, 10)
    {:noreply, list}
  end
end
