defmodule OOM.Tree.Pool do
  @moduledoc false
  # A worker that keeps a pool: the worker traps exits, and has started several OTP processes of one behaviour
  # module at the same time. NimblePool is such a worker. The processes of the pool are workers of their own:
  # each has a figure, is throttled and ended alone, and the pool replaces the process.
  #
  # A worker with a single process of a module may depend on this process, so the process counts for the worker
  # (OOM.Owned.Children), as does each process spawned in passing.

  alias OOM.{InitialCall, Tree, Victims}

  @doc """
  Returns the processes that are found to belong to a pool when `pid`, started by `worker`, is looked at: none,
  `pid`, or `pid` and the first process of the same module.
  """
  @spec members(pid(), pid()) :: [pid()]
  def members(pid, worker) do
    with {_, true} <- :erlang.process_info(worker, :trap_exit),
         true <- Tree.kind(worker) != :unit and not Victims.marked?(pid),
         {module, :init, 1} <- InitialCall.of(pid) do
      case Tree.pooled(worker, module, pid) do
        :pool -> [pid]
        # The only process of the module so far.
        ^pid -> []
        first -> [first, pid]
      end
    else
      _ -> []
    end
  end
end
