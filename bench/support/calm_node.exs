defmodule Calm.Node do
  @moduledoc false
  # The VM under test in bench/calm.exs: holds binaries, and sits still.

  alias Arena.Used

  @piece_bytes 1_048_576

  @doc "Holds binaries, in a process that stays, until the working set is this large."
  def hold(bytes) do
    missing = bytes - Used.bytes(Used.cgroup())
    {:ok, _} = Agent.start(fn -> pieces(div(missing, @piece_bytes)) end, timeout: :infinity)
    :ok
  end

  def held_percent(limit_bytes), do: div(Used.bytes(Used.cgroup()) * 100, limit_bytes)

  # Each a copy of the first: binaries of their own, written to, or the kernel would not count them.
  defp pieces(count) do
    piece = :binary.copy(<<1>>, @piece_bytes)
    for _ <- 1..count//1, do: :binary.copy(piece)
  end
end
