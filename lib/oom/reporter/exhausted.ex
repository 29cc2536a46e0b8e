defmodule OOM.Reporter.Exhausted do
  @moduledoc false
  # What the user wants to happen when nothing is left that would help (`on_exhausted`).

  require OOM.Log, as: Log

  alias OOM.Snapshot

  # A stop in order may take so long, in ms. Memory may not last longer.
  @stop_ms 10_000

  @doc "Runs it in a process of its own, because the user's code may take its time, or crash."
  @spec run(OOM.on_exhausted(), Snapshot.t()) :: pid() | nil
  def run(nil, _snapshot), do: nil
  def run(:stop, _snapshot), do: spawn(&stop/0)
  def run({m, f, a}, snapshot), do: spawn(m, f, [snapshot | a])
  def run(fun, snapshot), do: spawn(fn -> fun.(snapshot) end)

  # Of two stops the VM heeds the first. The process is killed at the end of the stop with all others.
  @spec stop() :: no_return()
  defp stop do
    Process.flag(:priority, :max)
    Log.error("OOM: the VM stops, as `on_exhausted: :stop` says")
    System.stop(1)
    Process.sleep(@stop_ms)
    System.halt(1)
  end
end
