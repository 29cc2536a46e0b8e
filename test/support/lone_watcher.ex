defmodule OOM.Test.LoneWatcher do
  @moduledoc false
  # A watcher without a guard. Keeps the reference here: on a different node a reference is
  # useless.

  alias OOM.Native

  @spec start(map()) :: :ok
  def start(config) do
    {:ok, watcher} = Native.watcher_start(Process.whereis(:init), config)
    :persistent_term.put(__MODULE__, watcher)
  end

  @spec report() :: Native.report()
  def report, do: Native.watcher_report(watcher())

  @spec sample() :: :ok
  def sample, do: Native.watcher_sample(watcher())

  @spec stop() :: :ok
  def stop, do: Native.watcher_stop(watcher())

  @doc "Allocates memory for good, written page by page."
  @spec take(pos_integer()) :: :ok
  def take(bytes), do: :persistent_term.put(make_ref(), :binary.copy(<<1>>, bytes))

  defp watcher, do: :persistent_term.get(__MODULE__)
end
