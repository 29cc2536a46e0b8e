defmodule Arena.Node do
  @moduledoc false
  # The program in the cgroup, until the decision, the end of the time, or the end of the VM.

  alias Arena.{Asker, Guard, Job, Judge, Say, Tree, Witness}

  @spec main([String.t()]) :: no_return()
  def main([text]) do
    end_with_parent()
    job = Job.decode(text)
    # The end has to come through in bad times too.
    Process.flag(:priority, :high)
    {:ok, _} = Application.ensure_all_started(:logger)
    {:ok, _} = Witness.start_link(job.trace?)
    {:ok, _} = Judge.start_link(job)
    Guard.start(job)
    Say.say(:ready, pid: String.to_integer(System.pid()))
    {decision, at_ms} = job |> Tree.start() |> await(job)
    Asker.all(Tree.innocents())
    decided = [decision: decision, decided_ms: at_ms, culprits_left: Judge.left()]
    _ = Say.say_last(:result, Witness.facts() ++ decided)
    # Without waiting for unread output; see Arena.Shapes.OutputPort.
    :erlang.halt(0, flush: false)
  end

  defp await(:not_loaded, _job), do: {:not_loaded, 0}

  # A culprit that comes back and grows again is never over.
  defp await(:ok, %{return?: true} = job) do
    Process.sleep(job.seconds * 1_000)
    {:returning, job.seconds * 1_000}
  end

  defp await(:ok, job), do: Judge.await(job.seconds * 1_000)

  # Leaves nothing behind, whatever happens to the starter.
  defp end_with_parent do
    spawn(fn ->
      IO.read(:line)
      System.halt(3)
    end)
  end
end
