defmodule Arena.Shapes.Burst do
  @moduledoc false
  # Quiet, and then 64 MB at once, of all workers together.
  @behaviour Arena.Shape

  @burst_bytes 64 * 1_048_576
  @quiet_ms 500

  @impl true
  def new(_id, job), do: {div(@burst_bytes, job.workers), []}

  @impl true
  def step({bytes, held}) do
    # All workers at the same moment.
    Process.sleep(@quiet_ms - Integer.mod(System.monotonic_time(:millisecond), @quiet_ms))
    {bytes, {bytes, [:lists.seq(1, div(bytes, 16)) | held]}}
  end
end

defmodule Arena.Shapes.Mixture do
  @moduledoc false
  # All shapes at once: each worker has a shape, and a single worker takes the shapes in turn.
  @behaviour Arena.Shape

  alias Arena.Shape

  @parts ~w(list map dictionary append binaries subs ets atomics port socket spawn)a

  @impl true
  def outside(job) do
    # The outside of each part, and clients for all workers.
    for part <- [:socket, :mailbox], do: Shape.module(part).outside(job)
  end

  @impl true
  def new(_id, %{workers: 1} = job), do: for(part <- @parts, do: part(part, 1, job))
  def new(id, job), do: [part(Enum.at(@parts, rem(id, length(@parts))), id, job)]

  @impl true
  def step([{module, data} | rest]) do
    {bytes, data} = module.step(data)
    {bytes, rest ++ [{module, data}]}
  end

  defp part(name, id, job) do
    module = Shape.module(name)
    {module, module.new(id, job)}
  end
end
