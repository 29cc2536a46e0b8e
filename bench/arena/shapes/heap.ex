defmodule Arena.Shapes.List do
  @moduledoc false
  # Lists on the heap.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []

  @impl true
  def step(lists), do: {65_536, [:lists.seq(1, 4_096) | lists]}
end

defmodule Arena.Shapes.LargeMap do
  @moduledoc false
  # A map growing larger and larger.
  @behaviour Arena.Shape

  @per_step 500

  @impl true
  def new(_id, _job), do: %{}

  @impl true
  def step(map) do
    n = map_size(map)
    # Key, value and their share of the nodes.
    {@per_step * 80, Enum.reduce(n..(n + @per_step - 1), map, &Map.put(&2, &1, {&1, [&1]}))}
  end
end

defmodule Arena.Shapes.Dictionary do
  @moduledoc false
  # The process dictionary, an allocation separate from the heap.
  @behaviour Arena.Shape

  @per_step 200

  @impl true
  def new(_id, _job), do: 0

  @impl true
  def step(n) do
    for key <- n..(n + @per_step - 1), do: Process.put({:leak, key}, [key, key, key, key])
    {@per_step * 130, n + @per_step}
  end
end
