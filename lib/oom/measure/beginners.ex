defmodule OOM.Beginners do
  @moduledoc false
  # Children whose start takes long. A supervisor registers a child after the child's `init/1` has returned. A
  # cache that loads in `init/1`, or a leak that begins there, belongs to no worker until then. But the
  # supervisor is linked with the child from the first moment, and waits, so the supervisor answers at once:
  # under pressure a throw-away process asks the supervisor for links. The linked process whose parent is the
  # supervisor, and which is not registered, is the child. The child gets the rank of the child's
  # specification. A child that is killed in `init/1` is held by its supervisor (OOM.Child).
  #
  # Nothing tells when the child has taken its memory, so none of the memory counts as growth.

  alias OOM.{Tree, Workers}

  # Shorter starts, in ms, are left alone.
  @long_ms 50

  @doc "Registers the children whose start is under way and takes long."
  @spec read() :: :ok
  def read,
    do: OOM.Tables.while_there(fn -> Enum.each(Tree.Start.being_started(before()), &read/1) end)

  defp before, do: System.monotonic_time(:millisecond) - @long_ms

  defp read({supervisor, rank}) do
    with {_, links} <- :erlang.process_info(supervisor, :links),
         [child] <- Enum.filter(links, &child?(&1, supervisor)),
         do: Workers.found(child, rank, supervisor)
  end

  defp child?(pid, supervisor) when is_pid(pid) and node(pid) == node() do
    not Workers.member?(pid) and Tree.kind(pid) == nil and
      :erlang.process_info(pid, :parent) == {:parent, supervisor}
  end

  defp child?(_other, _supervisor), do: false
end
