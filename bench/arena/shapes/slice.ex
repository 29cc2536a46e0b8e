# Growth within one timeslice: a BIF that takes much memory and costs few reductions, in a loop
# without return to the GenServer's loop. No exit signal and no suspension reaches the process
# before the end of the slice, and by then it may have taken gigabytes.

defmodule Arena.Shapes.SliceRandom do
  @moduledoc false
  # Pieces of 1 MiB by a NIF.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []
  @impl true
  def step(held), do: step([:crypto.strong_rand_bytes(1_048_576) | held])
end

defmodule Arena.Shapes.SliceZero do
  @moduledoc false
  # Pieces of 1 MiB by an instruction of the VM.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []
  @impl true
  def step(held), do: step([<<0::size(8_388_608)>> | held])
end

defmodule Arena.Shapes.SliceSmall do
  @moduledoc false
  # The same in pieces of 64 KiB.
  @behaviour Arena.Shape

  @impl true
  def new(_id, _job), do: []
  @impl true
  def step(held), do: step([<<0::size(524_288)>> | held])
end
