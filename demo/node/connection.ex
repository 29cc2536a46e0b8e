defmodule Demo.Node.Connection do
  @moduledoc false
  # One of the thousand: a client's connection that keeps what the client did. Each request leaves
  # a bit of everything a real session holds: a list, a map and a binary too large for the heap.
  # It knows nothing of OOM.

  use GenServer

  alias Demo.Node.Witness

  def start_link(id), do: GenServer.start_link(__MODULE__, id)

  @doc "How many bytes one request leaves behind."
  def request_bytes do
    {_list, _map, binary} = item = item(1)
    :erts_debug.flat_size(item) * :erlang.system_info(:wordsize) + byte_size(binary)
  end

  @impl true
  def init(id) do
    Witness.up(:low, id)
    {:ok, %{session: [], served: Witness.served()}}
  end

  @impl true
  def handle_cast(:request, state) do
    :counters.add(state.served, 1, 1)
    {:noreply, %{state | session: [item(length(state.session)) | state.session]}}
  end

  # The client has left: what was kept for it goes, and the heap with it.
  def handle_cast(:client_left, state), do: {:noreply, %{state | session: []}, :hibernate}

  @impl true
  def handle_call(:ping, _from, state), do: {:reply, :pong, state}

  defp item(n) do
    history = Enum.to_list(n..(n + 1_000))
    cart = Map.new(1..100, &{&1 + n, {:item, &1, n}})
    {history, cart, :binary.copy(<<n::32>>, 4_096)}
  end
end
