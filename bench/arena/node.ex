defmodule Arena.Node do
  @moduledoc false
  # What runs in the cgroup, until the time is over or the VM is.

  alias Arena.{Ear, Job, Say, Tree, Witness}

  @spec main([String.t()]) :: no_return()
  def main([text]) do
    end_with_parent()
    job = Job.decode(text)
    # The end has to come through in bad times too.
    Process.flag(:priority, :high)
    Application.put_env(:oom, :on_exhausted, &__MODULE__.exhausted/1)
    # More rounds in the same time: a leak that comes back soon is the harder one.
    Application.put_env(:oom, :backoff, initial_ms: 300, max_ms: 1_000)
    {:ok, _} = Application.ensure_all_started(:oom)
    Code.ensure_loaded!(OOM.Supervisor)
    {:ok, _} = Witness.start_link(job.trace?)
    {:ok, _} = Ear.start_link()
    Say.say(:ready, pid: String.to_integer(System.pid()))
    Tree.start(job)
    Process.sleep(job.seconds * 1_000)
    Say.say(:result, Witness.facts())
    System.halt(0)
  end

  @doc false
  def exhausted(_snapshot), do: send(Witness, :exhausted)

  # Whatever happens to who started this, nothing is left behind.
  defp end_with_parent do
    spawn(fn ->
      IO.read(:line)
      System.halt(3)
    end)
  end
end
