defmodule OOM.BinaryShares do
  @moduledoc false
  # The off-heap binaries in terms of another process: messages in a mailbox, rows of a table. The VM tells only
  # the binaries of a heap. So a throw-away process copies the terms to a heap of its own, and asks for the
  # binaries of this heap. The end of the process drops the references at once.

  # The owner of the messages answers at the priority of the asking process.
  @spawn [:link, :monitor, priority: :max]

  @doc """
  Returns the bytes of the off-heap binaries in the terms that `read` returns. Each binary is divided among
  the references to the binary, so a binary sent to ten mailboxes counts for a tenth in each. One reference
  does not count: the maker of the binary holds a reference until the maker's next collection.
  """
  @spec bytes((() -> term())) :: non_neg_integer()
  def bytes(read) do
    {me, tag} = {self(), make_ref()}
    {_pid, ref} = :erlang.spawn_opt(fn -> send(me, {tag, count(read)}) end, @spawn)

    receive do
      {^tag, bytes} ->
        Process.demonitor(ref, [:flush])
        bytes

      {:DOWN, ^ref, :process, _, _} ->
        0
    end
  end

  defp count(read) do
    # The terms keep their binaries until the end of this function.
    terms = read.()
    {:binary, binaries} = :erlang.process_info(self(), :binary)
    copies = Enum.frequencies_by(binaries, &elem(&1, 0))
    shares = for {id, bytes, references} <- binaries, do: share(bytes, references, copies[id])
    sum(shares, terms)
  end

  defp sum(shares, _terms), do: Enum.sum(shares)

  # The copies made here are references, too. The terms hold as many themselves.
  defp share(bytes, references, copies),
    do: div(bytes, max(references - copies - 1, copies))
end
