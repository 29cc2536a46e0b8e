defmodule OOM.Owned.Line do
  @moduledoc false
  # The line of parents above a process, up to the nearest worker. The memory of an unregistered process counts
  # for that worker: the worker spawned the process, and linked processes end with the worker.
  #
  # Asking for the parent is no signal to a process outside a run (0.6 us here).

  alias OOM.{Tree, Workers}

  @typedoc "The answers so far, by process. Siblings have the same answer, so a parent is looked up once."
  @type seen :: %{pid() => pid() | nil}

  # The search for a worker ends so many parents up.
  @generations 16

  @doc "Returns the worker that a process counts for, the worker itself included; `nil` where there is none."
  @spec worker(pid(), seen()) :: {pid() | nil, seen()}
  def worker(pid, seen), do: worker(pid, seen, 0)

  defp worker(_pid, seen, @generations), do: {:too_far, seen}

  defp worker(pid, seen, generation) do
    cond do
      Workers.member?(pid) -> {pid, seen}
      # A child of a supervisor counts neither for the supervisor nor for a worker above.
      Tree.supervisor?(pid) -> {nil, seen}
      true -> of_parent(:erlang.process_info(pid, :parent), seen, generation)
    end
  end

  defp of_parent({_, parent}, seen, _generation) when is_map_key(seen, parent),
    do: {seen[parent], seen}

  defp of_parent({_, parent}, seen, generation) when is_pid(parent) and node(parent) == node() do
    # `:too_far` is not remembered: a walk that begins nearer to the parent may still find a worker.
    case worker(parent, seen, generation + 1) do
      {:too_far, seen} -> {if(generation == 0, do: nil, else: :too_far), seen}
      {worker, seen} -> {worker, Map.put(seen, parent, worker)}
    end
  end

  defp of_parent(_unknown, seen, _generation), do: {nil, seen}
end
