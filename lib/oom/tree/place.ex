defmodule OOM.Tree.Place do
  @moduledoc false
  # The place in the tree of a process that no walk has found yet, from the parents of the process.

  alias OOM.{InitialCall, Tree}
  alias OOM.Tree.{Census, Start}

  # No search goes farther up than so many parents.
  @generations 16

  @doc "Whether a process is below a unit, which may be starting just now, or below a known supervisor."
  @spec above(pid()) :: :unit | :known | :nobody
  def above(pid), do: above(Tree.parent(pid), pid, :unread, @generations)

  defp above(parent, pid, ancestors, generations) when parent != nil and generations > 0 do
    # The unit is a supervisor: no child of the process that starts the unit just now is below the unit.
    starting =
      generations < @generations and Tree.lookup(pid) == nil and Start.note(parent)[:inside_unit]

    case Tree.lookup(parent) do
      _ when starting -> :unit
      {_, _, _, options, _} -> if options[:inside_unit], do: :unit, else: :known
      nil when ancestors == :unread -> next(parent, beyond(parent, pid), generations - 1)
      nil -> next(parent, ancestors, generations - 1)
    end
  end

  defp above(_parent, _pid, _ancestors, _generations), do: :nobody

  # Ancestors noted by proc_lib cost nothing. Any other process asked for its parent answers at the end of a
  # turn, and the caller waits.
  defp next(pid, [], generations), do: above(Tree.parent(pid), pid, [], generations)

  defp next(pid, [ancestor | beyond], generations) do
    case Start.whereis(ancestor) do
      next when is_pid(next) and node(next) == node() -> above(next, pid, beyond, generations)
      _gone -> :nobody
    end
  end

  # The ancestors beyond the parent, which are known here of the calling process only.
  defp beyond(parent, pid) do
    with true <- pid == self(),
         [first | beyond] <- Process.get(:"$ancestors"),
         ^parent <- Start.whereis(first) do
      beyond
    else
      _ -> []
    end
  end

  @doc """
  Called when a worker started by `pid` registers itself. Where `pid` is a supervisor that no walk has found
  yet, the supervisor gets a place now. The guard tells the supervisor before a kill, and asks for the
  workers that would go too. One look covers all children.
  """
  @spec met(pid() | nil) :: :ok
  def met(pid) do
    new? = pid != nil and Tree.kind(pid) == nil and not :ets.member(Tree, {:no_supervisor, pid})
    _ = if new?, do: meet(pid)
    :ok
  end

  # The process is waiting for a child's start, so the process answers at once.
  defp meet(pid) do
    case InitialCall.of(pid) do
      {:supervisor, _, _} ->
        find(pid, @generations) || Tree.put_new(pid, :aside, Tree.parent(pid), [])

      _ ->
        :ets.insert(Tree, {{:no_supervisor, pid}})
    end
  end

  # The options that hold below the process, or nil.
  defp find(pid, generations) when pid != nil and generations > 0 do
    case Tree.lookup(pid) do
      {_, kind, _, options, _} when kind in [:oom, :supervisor, :special, :unknown] -> options
      nil -> find_new(pid, Tree.parent(pid), generations - 1)
      _in_a_unit_or_a_worker -> nil
    end
  end

  defp find(_pid, _generations), do: nil

  defp find_new(pid, parent, generations) do
    with options when options != nil <- find(parent, generations),
         {:supervisor, _, _} <- InitialCall.of(pid) do
      # The parent may be starting a sibling just now, and the note is then about the sibling.
      {type, said, others} = Start.noted(parent)
      its_own? = type == :supervisor and pid not in others
      options = if its_own?, do: Keyword.merge(options, said), else: options
      if Tree.put_new(pid, :supervisor, parent, options), do: Census.changed()
      # Another process may have been first, with better knowledge.
      Tree.options(pid)
    else
      _ -> nil
    end
  end
end
