defmodule OOM.Beginners do
  @moduledoc false
  # Children whose start takes long. A supervisor hears of its child when that one's `init` is through, and
  # registers it then; a cache that loads there, or a leak that begins there, would be nobody's until then.
  # But the supervisor is linked with it from the first moment and waits, so it answers at once: under
  # pressure a throw-away process asks for its links, and the one whose parent it is, and of which nobody
  # knows yet, is the child. It is registered with the rank it will have. Where it is killed in its `init`,
  # its supervisor holds it (OOM.Child).
  #
  # It is found, not born: when it has taken what it holds by now is not known.

  alias OOM.{Tree, Workers}

  # A start that is through by then is not worth a question.
  @long_ms 50

  @doc "Registers those children whose start is under way and takes long."
  @spec read() :: :ok
  def read, do: OOM.Tables.while_there(fn -> Enum.each(Tree.being_started(before()), &read/1) end)

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
