defmodule Arena.Ear do
  @moduledoc false
  # Stands in front of OOM.Reporter and hears the guard's messages at once: the log gathers kills
  # for a while before naming victims. Passes every message on.

  alias Arena.{Say, Witness}

  def start_link do
    reporter = Process.whereis(OOM.Reporter)
    parent = self()

    pid =
      :erlang.spawn_opt(
        fn ->
          Process.unregister(OOM.Reporter)
          Process.register(self(), OOM.Reporter)
          send(parent, {:listening, self()})
          listen(reporter)
        end,
        [:link, priority: :max]
      )

    receive(do: ({:listening, ^pid} -> {:ok, pid}))
  end

  defp listen(reporter) do
    receive do
      message ->
        hear(message)
        send(reporter, message)
        listen(reporter)
    end
  end

  defp hear({:"$gen_cast", {:killed, victims, need, report}}) do
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum()
    # The missing bytes, without the growth the guard expects.
    send(Witness, {:killed, bytes, missing(report, need)})

    Say.say(:killed,
      count: length(victims),
      rank: hd(victims).rank,
      states: victims |> Enum.map(& &1.state) |> Enum.uniq(),
      bytes: bytes,
      need: need,
      headroom: report.headroom_bytes,
      growth: report.growth_bytes_per_s,
      standing: report.standing_bytes_per_s,
      trend: report.trend_bytes_per_s,
      grown: victims |> Enum.map(& &1.grown_bytes) |> Enum.sum()
    )
  end

  defp hear(_other), do: :ok

  defp missing(%{high_headroom_bytes: high, headroom_bytes: headroom}, _need),
    do: max(high - headroom, 0)

  # Without such a watermark, the guard's own figure.
  defp missing(_report, need), do: need
end
