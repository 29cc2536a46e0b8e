defmodule Demo.Node.Connection do
  @moduledoc false
  # One of the thousand: a client's connection. Most requests are answered and forgotten. An export
  # is what the bug is in: each leaves a bit of everything a real session holds, a list, a map and
  # a binary too large for the heap. One client in twenty exports, over and over; what it is connected
  # to is a worker like any other, and knows nothing of OOM.

  use GenServer

  alias Demo.Node.Witness

  @count 1_000
  @leaking_each 20

  def start_link(id), do: GenServer.start_link(__MODULE__, id)

  @doc "How many connections there are."
  def count, do: @count

  @doc "How many of them leak."
  def leaking, do: div(@count, @leaking_each)

  @doc "Whether this one's client exports."
  def leaks?(id), do: rem(id, @leaking_each) == 0

  @doc "How many bytes an export leaves behind."
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

  # The client has left: what was kept for it goes, and the heap with it.
  def handle_cast(:client_left, state), do: {:noreply, %{state | exports: []}, :hibernate}

  @impl true
  def handle_call(:ping, _from, state), do: {:reply, :pong, state}

  defp item(n) do
    history = Enum.to_list(n..(n + 1_000))
    cart = Map.new(1..100, &{&1 + n, {:item, &1, n}})
    {history, cart, :binary.copy(<<n::32>>, 4_096)}
  end
end
