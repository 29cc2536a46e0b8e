defmodule Arena.Ballast do
  @moduledoc false
  # What an application holds anyway: binaries in a protected process that does nothing. With it a
  # slow leak reaches the limit within the time of a run.

  use GenServer

  alias Arena.Witness

  @piece 1_048_576

  def start_link(bytes), do: GenServer.start_link(__MODULE__, bytes, name: __MODULE__)

  @impl true
  def init(bytes) do
    Witness.up(:protected, 1)
    # Written to, or the kernel would not count it.
    {:ok, for(_ <- 1..div(bytes, @piece)//1, do: :binary.copy(<<1>>, @piece))}
  end
end
