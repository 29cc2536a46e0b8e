defmodule OOM.Slack do
  @moduledoc false
  # Memory that is resident and yet free: blocks that ended workers left in carriers shared with live workers.
  # The system does not get the memory back, but the VM uses it before the VM asks for more. Resident memory
  # does not fall after a round of kills, so a guard that goes by it alone would kill all workers. So slack
  # counts as headroom.
  #
  # Slack is the resident memory that `:erlang.memory(:total)` does not explain, less the unexplained memory
  # at the start (code, stacks, the VM's own tables). `memory/1` asks every scheduler (0.3 ms here idle, tens
  # of ms under load), so a throw-away process measures, and reports.

  # Of slack measured after 9 of 10 processes were killed (20, 100 and 300 kB each), new processes of the same
  # size reused 87 to 98 % before the VM grew; other sizes reuse less.
  @usable 0.75

  @type measure :: %{
          started_ms: integer(),
          # :erlang.memory(:total)
          allocated_bytes: non_neg_integer(),
          # resident and not explained by `allocated_bytes`
          unexplained_bytes: integer(),
          working_set_bytes: non_neg_integer(),
          headroom_bytes: non_neg_integer() | nil
        }

  @doc "Measures in a process of its own, which sends `{:slack, t:measure/0 | nil}`."
  @spec start(pid(), reference()) :: pid()
  def start(to, watcher) do
    now_ms = System.monotonic_time(:millisecond)
    :erlang.spawn_opt(__MODULE__, :run, [to, watcher, now_ms], priority: :max)
  end

  @doc false
  @spec run(pid(), reference(), integer()) :: {:slack, measure() | nil}
  def run(to, watcher, started_ms) do
    allocated = :erlang.memory(:total)
    send(to, {:slack, measure(OOM.Native.watcher_report(watcher), allocated, started_ms)})
  end

  defp measure(%{rss_bytes: rss, working_set_bytes: working_set} = report, allocated, started_ms)
       when is_integer(rss) and is_integer(working_set) do
    %{
      started_ms: started_ms,
      allocated_bytes: allocated,
      unexplained_bytes: rss - allocated,
      working_set_bytes: working_set,
      headroom_bytes: report.headroom_bytes
    }
  end

  defp measure(_unknown, _allocated, _started_ms), do: nil

  @doc "Returns the slack that counts, in bytes, given the unexplained memory at the start."
  @spec usable_bytes(measure(), integer()) :: non_neg_integer()
  def usable_bytes(measure, at_start_bytes),
    do: trunc(max(measure.unexplained_bytes - at_start_bytes, 0) * @usable)
end
