# The VM under test in bench/idle.exs. Answers every line on standard input with a line about
# itself.

defmodule Idle.Node do
  @workers 1_000

  def main(mode) do
    # In both modes, so the cost of the logger is not taken for OOM's.
    {:ok, _} = Application.ensure_all_started(:logger)
    {:ok, _} = start(mode)
    IO.puts("ready")
    answer()
  end

  defp start("without"), do: Supervisor.start_link(workers(), strategy: :one_for_one)

  defp start("with") do
    {:ok, _} = Application.ensure_all_started(:oom)
    OOM.Supervisor.start_link(workers(), strategy: :one_for_one)
  end

  # An Agent is a GenServer without work.
  defp workers,
    do: for(id <- 1..@workers, do: %{id: id, start: {Agent, :start_link, [:erlang, :self, []]}})

  defp answer do
    case IO.gets("") do
      "samples\n" -> IO.puts(OOM.snapshot().samples || 0)
      "memory\n" -> IO.puts("#{:erlang.memory(:total)} #{:erlang.system_info(:process_count)}")
      "limit\n" -> IO.puts(limit(OOM.snapshot()))
      :eof -> System.halt(0)
    end

    answer()
  end

  defp limit(%{limit_bytes: nil}), do: "none"
  defp limit(snapshot), do: "#{div(snapshot.limit_bytes, 1_048_576)} MiB (#{snapshot.source})"
end
