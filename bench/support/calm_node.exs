defmodule Calm.Node do
  @moduledoc false
  # The VM under test in bench/calm.exs: holds binaries, and sits still.

  alias Arena.Used

  @piece_bytes 1_048_576
  @page :binary.copy(<<1>>, 4_096)

  @doc "Holds binaries, in a process that stays, until the working set is this large."
  def hold(bytes) do
    parent = self()
    cgroup = Used.cgroup()

    pid =
      spawn(fn ->
        pieces = fill(cgroup, bytes, [])
        send(parent, {:full, self()})
        # The pieces stay referenced.
        Process.sleep(:infinity)
        length(pieces)
      end)

    receive(do: ({:full, ^pid} -> :ok))
  end

  def held_percent(limit_bytes), do: div(Used.bytes(Used.cgroup()) * 100, limit_bytes)

  defp fill(cgroup, bytes, pieces) do
    if Used.bytes(cgroup) >= bytes,
      do: pieces,
      else: fill(cgroup, bytes, [:binary.copy(@page, div(@piece_bytes, 4_096)) | pieces])
  end
end
