defmodule Arena.Shapes.Atomics do
  @moduledoc false
  # Arrays outside of every heap, held by references.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []

  @impl true
  def step(held), do: {131_072, [:atomics.new(8_192, []), :counters.new(8_192, []) | held]}
end

defmodule Arena.Shapes.OutputPort do
  @moduledoc false
  # A program that does not read, and a port with an unbounded queue.
  @behaviour Arena.Shape

  @bytes 65_536

  @impl true
  def new(_id, job) do
    sleep = System.find_executable("sleep")

    Port.open({:spawn_executable, sleep}, [
      :binary,
      args: ["#{job.seconds + 60}"],
      busy_limits_port: :disabled,
      busy_limits_msgq: :disabled
    ])
  end

  @impl true
  def step(port) do
    Port.command(port, :binary.copy(<<1>>, @bytes))
    {@bytes, port}
  end
end

defmodule Arena.Shapes.Socket do
  @moduledoc false
  # Iolists to a client that does not read, through a socket with a (nearly) unbounded queue.
  @behaviour Arena.Shape

  @bytes 65_536
  @no_bound 0x7FFFFFF

  @impl true
  def outside(_job) do
    parent = self()

    spawn_link(fn ->
      {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, backlog: 1_024])
      {:ok, number} = :inet.port(listener)
      :persistent_term.put(__MODULE__, number)
      send(parent, :listening)
      accept(listener, [])
    end)

    receive(do: (:listening -> :ok))
  end

  # Keeps every accepted socket, and never reads.
  defp accept(listener, sockets) do
    {:ok, socket} = :gen_tcp.accept(listener)
    accept(listener, [socket | sockets])
  end

  @impl true
  def new(_id, _job) do
    options = [:binary, active: false, high_watermark: @no_bound, high_msgq_watermark: @no_bound]
    number = :persistent_term.get(__MODULE__)
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, number, options, 10_000)
    socket
  end

  @impl true
  def step(socket) do
    _ = :gen_tcp.send(socket, ["header: ", "value\r\n", :binary.copy(<<1>>, @bytes)])
    {@bytes, socket}
  end
end
