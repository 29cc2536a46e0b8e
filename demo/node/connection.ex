defmodule Demo.Node.Connection do
  @moduledoc false
  # One of a thousand client connections. Most requests are answered and forgotten. The bug is in
  # the export: each leaves a bit of everything a real session holds, a list, a map and a binary
  # too large for the heap. A client in twenty exports, over and over; its connection is an
  # ordinary worker, and knows nothing of OOM.

  use GenServer

  alias Demo.Node.Witness

  @count 1_000
  @leaking_each 20

  def start_link(id), do: GenServer.start_link(__MODULE__, id)

  @doc "Returns the number of connections."
  def count, do: @count

  @doc "Returns the number of leaking connections."
  def leaking, do: div(@count, @leaking_each)

  @doc "Tells whether the client of this connection exports."
  def leaks?(id), do: rem(id, @leaking_each) == 0

  @doc "Returns the bytes an export leaves behind."
  def export_bytes do
    {_list, _map, binary} = item = item(1)
    :erts_debug.flat_size(item) * :erlang.system_info(:wordsize) + byte_size(binary)
  end

  @impl true
  def init(id) do
    Witness.up(:low, id)
    {:ok, %{last: nil, exports: [], kept: Witness.kept()}}
  end

  @impl true
  def handle_cast({:browse, n}, state), do: {:noreply, %{state | last: Enum.to_list(n..(n + 20))}}

  def handle_cast(:export, state) do
    :counters.add(state.kept, 1, 1)
    {:noreply, %{state | exports: [item(length(state.exports)) | state.exports]}}
  end

  # The client has left: its exports are dropped, and the heap with them.
  def handle_cast(:client_left, state), do: {:noreply, %{state | exports: []}, :hibernate}

  @impl true
  def handle_call(:ping, _from, state), do: {:reply, :pong, state}

  defp item(n) do
    history = Enum.to_list(n..(n + 1_000))
    cart = Map.new(1..100, &{&1 + n, {:item, &1, n}})
    {history, cart, :binary.copy(<<n::32>>, 4_096)}
  end
end
