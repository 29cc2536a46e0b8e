defmodule Arena.Node do
  @moduledoc false
  # What runs in the cgroup, until the time is over or the VM is.

  alias Arena.{Guard, Job, Say, Tree, Witness}

  @spec main([String.t()]) :: no_return()
  def main([text]) do
    end_with_parent()
    job = Job.decode(text)
    # The end has to come through in bad times too.
    Process.flag(:priority, :high)
    {:ok, _} = Application.ensure_all_started(:logger)
    {:ok, _} = Witness.start_link(job.trace?)
    Guard.start(job)
    Say.say(:ready, pid: String.to_integer(System.pid()))
    Tree.start(job)
    Process.sleep(job.seconds * 1_000)
    Say.say(:result, Witness.facts())
    System.halt(0)
  end

  # Whatever happens to who started this, nothing is left behind.
  defp end_with_parent do
    spawn(fn ->
      IO.read(:line)
      System.halt(3)
    end)
  end
end
