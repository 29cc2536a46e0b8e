defmodule Arena.Ballast do
  @moduledoc false
  # The memory of a resting application: binaries in a protected, idle process. With ballast a
  # slow leak reaches the limit within the time of a run.

  use GenServer

  alias Arena.Witness

  @piece 1_048_576

  def start_link(bytes), do: GenServer.start_link(__MODULE__, bytes, name: __MODULE__)

  @impl true
  def init(bytes) do
    Witness.up(:protected, 1)
    # Written to, or the kernel would not count the pages.
    {:ok, for(_ <- 1..div(bytes, @piece)//1, do: :binary.copy(<<1>>, @piece))}
  end
end
