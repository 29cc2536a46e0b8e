defmodule OOM.Kill do
  @moduledoc false
  # One throw-away process at top priority for each victim. An exit signal alone does not raise
  # the victim's priority, and would take effect only when its turn comes; asking whether it is
  # alive does. The question waits for a victim in a long collection, so the guard never asks.

  alias OOM.Owned

  @spec start(pid(), pos_integer()) :: pid()
  def start(pid, grace_ms),
    do: :erlang.spawn_opt(__MODULE__, :run, [pid, grace_ms], priority: :max)

  @doc false
  @spec run(pid(), pos_integer()) :: :ok
  def run(pid, grace_ms) do
    ref = Process.monitor(pid)
    ports = Owned.ports(pid)
    Process.exit(pid, {:shutdown, :memory_pressure})
    # A port whose owner has ended keeps what it has to write until it is written, which may be
    # never; killed before, it drops it. The worker has its own signal first, and its reason.
    Enum.each(ports, &Process.exit(&1, :kill))

    if Process.alive?(pid) do
      receive do
        {:DOWN, ^ref, :process, ^pid, _} -> true
      after
        grace_ms ->
          Process.exit(pid, :kill)
          Process.alive?(pid)
      end
    end

    :ok
  end
end
