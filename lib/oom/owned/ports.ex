defmodule OOM.Owned.Ports do
  @moduledoc false
  # Output that waits in the queues of ports, sockets among them: a client that does not read, and
  # whoever writes to it has that memory. A port outlives its owner until its queue is written, so
  # the kill has to know which ones.

  @behaviour OOM.Owned

  alias OOM.Workers

  @impl true
  def read do
    owners = Enum.reduce(Port.list(), %{}, &add/2)
    for {owner, {bytes, ports}} <- owners, Workers.lookup(owner) != nil, do: {owner, bytes, ports}
  end

  @doc """
  Before their owner is killed: a socket drops what waits when its owner ends, as if it were to be
  closed at once. Asks the socket, not its owner.
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
      # It has nothing to write, or was closed in the meantime.
      _ -> owners
    end
  end
end
