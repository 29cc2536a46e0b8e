defmodule OOM.Test.GeneratedTree.Leaf do
  @moduledoc false
  # A worker of a generated tree. Notes its birth first of all, and violations: a predecessor
  # still alive, or a start while held without a request.

  use GenServer

  alias OOM.{Holds, Tree}
  alias OOM.Test.GeneratedTree.Births

  @spec start_link(map(), Births.t()) :: GenServer.on_start()
  def start_link(node, births), do: GenServer.start_link(__MODULE__, {node, births})

  @doc "Runs the same worker as a task."
  @spec task(map(), Births.t()) :: no_return()
  def task(node, births) do
    born(node, births)
    receive(do: ({:"$gen_cast", {:stop, reason}} -> exit(reason)))
  end

  @impl true
  def init({node, births}) do
    Process.flag(:trap_exit, node.trap_exit)
    born(node, births)
    {:ok, node}
  end

  @impl true
  def handle_cast({:stop, reason}, node), do: {:stop, reason, node}

  @impl true
  def terminate(_reason, node), do: Process.sleep(node.slow_ms)

  defp born(node, births) do
    Births.note(births, node.path, self())
    supervisor = hd(Process.get(:"$ancestors"))

    # The strategy of a supervisor unknown to OOM also starts held children when a sibling
    # crashes.
    if is_pid(supervisor) and Tree.kind(supervisor) == :oom and
         node.path in Holds.Down.ids(supervisor),
       do: Births.wrong(births, {:held, node.path})

    if node.declares, do: OOM.set_priority(node.declares)
  end
end
