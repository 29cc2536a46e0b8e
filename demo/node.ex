defmodule Demo.Node do
  @moduledoc false
  # What runs under the limit: the same program twice, once below `Supervisor` and once below
  # `OOM.Supervisor`. It tells how it is in one line each 200 ms on standard output, `key=value`.

  alias Demo.Node.{Cache, Connection, Ledger, Load, Prober, Witness}

  # The load goes on until the limit would have been passed so many times over.
  @times 4
  @status_ms 200
  # The load, at its rate, takes a third of that.
  @load_ms 60_000
  @return_ms 60_000

  def main([mode, limit_bytes]) when mode in ["guarded", "unguarded"] do
    end_with_parent()
    # The status has to come through in bad times too.
    Process.flag(:priority, :high)
    {:ok, _} = Witness.start_link()
    {:ok, _} = start(mode)
    %{alive: %{low: 1_000, high: 10, protected: 1}} = Witness.counts()
    protected = Witness.whereis(:protected, 1)
    {:ok, _} = Prober.start_link()
    Load.start_caches_link()
    if mode == "guarded", do: OOM.subscribe()

    say("ready", [])
    Load.start_link(@times * String.to_integer(limit_bytes))
    await(:load, now() + @load_ms)
    say("load_over", [])
    # Held workers come back on their own.
    await(:return, now() + @return_ms)
    say("result", result(protected))
    System.halt(0)
  end

  # The three supervisors are all that differs.
  defp start("unguarded") do
    Supervisor.start_link(
      [
        Ledger,
        supervisor(Supervisor, :caches, children(Cache, 10), []),
        supervisor(Supervisor, :connections, children(Connection, 1_000), [])
      ],
      strategy: :one_for_one
    )
  end

  defp start("guarded") do
    {:ok, _} = Application.ensure_all_started(:oom)

    OOM.Supervisor.start_link(
      [
        OOM.child_spec(Ledger, priority: :protected),
        supervisor(OOM.Supervisor, :caches, children(Cache, 10), oom: [priority: :high]),
        supervisor(OOM.Supervisor, :connections, children(Connection, 1_000),
          oom: [priority: :low]
        )
      ],
      strategy: :one_for_one
    )
  end

  defp supervisor(module, id, children, options) do
    options = [strategy: :one_for_one] ++ options
    %{id: id, type: :supervisor, start: {module, :start_link, [children, options]}}
  end

  defp children(module, count),
    do: for(id <- 1..count, do: Supervisor.child_spec({module, id}, id: id))

  defp await(phase, deadline) do
    receive do
      :load_done -> :ok
      {:oom, level, _snapshot} -> say("level", level: level) && await(phase, deadline)
    after
      @status_ms ->
        counts = Witness.counts()
        status(counts)

        cond do
          phase == :return and counts.alive.low == 1_000 and OOM.level() == :normal -> :ok
          now() > deadline -> say("late", phase: phase)
          true -> await(phase, deadline)
        end
    end
  end

  defp status(counts) do
    say("status",
      level: OOM.level(),
      alive: counts.alive.low,
      held: 1_000 - counts.alive.low,
      killed: counts.killed,
      kills: counts.kills,
      restarted: counts.restarted,
      kept: :counters.get(Witness.served(), 1) * Connection.request_bytes(),
      worst_us: Prober.worst_us()
    )
  end

  defp result(protected) do
    {asked, verdict} = Prober.verdict()
    same? = Witness.whereis(:protected, 1) == protected
    counts = Witness.counts()
    silent = for id <- 1..1_000, not answers?(id), do: id
    for {name, reason} <- counts.other, do: say("other", who: name, reason: reason)

    [
      killed: counts.killed,
      kills: counts.kills,
      restarted: counts.restarted,
      down: length(silent),
      high_lost: Enum.count(counts.other, &match?({{:high, _}, _}, &1)),
      other: length(counts.other),
      protected: if(same? and verdict == :intact, do: :intact, else: {same?, verdict}),
      asked: asked,
      worst_us: Prober.worst_us()
    ]
  end

  defp answers?(id) do
    pid = Witness.whereis(:low, id)
    is_pid(pid) and GenServer.call(pid, :ping) == :pong
  end

  # One write for a line, whole or not at all; no spaces within a value.
  defp say(what, pairs) do
    values = Enum.map(pairs, fn {key, value} -> " #{key}=#{value |> text() |> squeeze()}" end)
    IO.write(["@", what, values, "\n"])
  end

  defp text(value) when is_atom(value) or is_integer(value), do: to_string(value)
  defp text(value), do: inspect(value, limit: 5)
  defp squeeze(text), do: String.replace(text, ~r/\s/, "")

  # Whatever happens to who started this, nothing is left behind.
  defp end_with_parent do
    spawn(fn ->
      IO.read(:line)
      System.halt(3)
    end)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
