defmodule OOM.Owned.Ports do
  @moduledoc false
  # Output in the queues of ports, sockets among them: where a client does not read, the memory belongs to
  # the worker writing to the socket. A port outlives the owner until the queue is written, so the kill has
  # to know a victim's ports.

  @behaviour OOM.Owned

  alias OOM.Workers

  @impl true
  def read do
    owners = Enum.reduce(Port.list(), %{}, &add/2)
    for {owner, {bytes, ports}} <- owners, Workers.lookup(owner) != nil, do: {owner, bytes, ports}
  end

  @doc """
  Sets TCP sockets to drop waiting output when their owner ends, as a socket closed at once does.
  Called before the kill; asks the socket, not the owner.
  """
  @spec drop_at_end([port()]) :: :ok
  def drop_at_end(ports) do
    ports
    |> Enum.filter(&(:erlang.port_info(&1, :name) == {:name, ~c"tcp_inet"}))
    |> Enum.each(&:inet.setopts(&1, linger: {true, 0}))
  end

  defp add(port, owners) do
    with {_, bytes} when bytes > 0 <- :erlang.port_info(port, :queue_size),
         {_, owner} <- :erlang.port_info(port, :connected) do
      Map.update(owners, owner, {bytes, [port]}, fn {all, ports} ->
        {all + bytes, [port | ports]}
      end)
    else
      # The port has nothing to write, or was closed in the meantime.
      _ -> owners
    end
  end
end
