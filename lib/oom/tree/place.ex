defmodule OOM.Tree.Place do
  @moduledoc false
  # Where a process is in the tree that no walk has found yet: from its parents, as far as it takes.

  alias OOM.{InitialCall, Tree}
  alias OOM.Tree.{Census, Start}

  # Further up nobody looks.
  @generations 16

  @doc "Whether a process is below a unit, or one that is just being started; else below whom we know."
  @spec above(pid()) :: :unit | :known | :nobody
  def above(pid), do: above(Tree.parent(pid), pid, :unread, @generations)

  defp above(parent, pid, ancestors, generations) when parent != nil and generations > 0 do
    # The unit itself is a supervisor: no child of whoever is starting it just now is below it.
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

  # What proc_lib has noted costs nothing. Whoever else is asked for its parent answers when its turn
  # comes, and the caller waits for that.
  defp next(pid, [], generations), do: above(Tree.parent(pid), pid, [], generations)

  defp next(pid, [ancestor | beyond], generations) do
    case Start.whereis(ancestor) do
      next when is_pid(next) and node(next) == node() -> above(next, pid, beyond, generations)
      _gone -> :nobody
    end
  end

  # Those beyond its parent, of the calling process: of no other they are known here.
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
  A worker that this process has started tells of itself. Where it is a supervisor that no walk has
  found yet, it has its place from now on: one that may be killed has a supervisor that is told, and
  of which it is asked who else would go. Once for all its children.
  """
  @spec met(pid() | nil) :: :ok
  def met(pid) do
    new? = pid != nil and Tree.kind(pid) == nil and not :ets.member(Tree, {:no_supervisor, pid})
    _ = if new?, do: meet(pid)
    :ok
  end

  # It waits for its child to start, so it answers at once.
  defp meet(pid) do
    case InitialCall.of(pid) do
      {:supervisor, _, _} ->
        find(pid, @generations) || Tree.put_new(pid, :aside, Tree.parent(pid), [])

      _ ->
        :ets.insert(Tree, {{:no_supervisor, pid}})
    end
  end

  # The options that hold below it, or nil.
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
      # What is said of a sibling that its parent starts just now is not said of it.
      {type, said, others} = Start.noted(parent)
      its_own? = type == :supervisor and pid not in others
      options = if its_own?, do: Keyword.merge(options, said), else: options
      if Tree.put_new(pid, :supervisor, parent, options), do: Census.changed()
      # Somebody else may have been first, and have known more.
      Tree.options(pid)
    else
      _ -> nil
    end
  end
end
