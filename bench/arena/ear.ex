defmodule Arena.Ear do
  @moduledoc false
  # Stands in front of OOM.Reporter and hears what the guard tells it, at the moment it does: the
  # log gathers kills for a while before it names them. Everything is passed on.

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
    # What was missing, without what the guard expects to grow.
    send(Witness, {:killed, bytes, missing(report, need)})

    Say.say(:killed,
      count: length(victims),
      rank: hd(victims).rank,
      states: victims |> Enum.map(& &1.state) |> Enum.uniq(),
      bytes: bytes,
      need: need,
      headroom: report.headroom_bytes,
      growth: report.growth_bytes_per_s
    )
  end

  defp hear(_other), do: :ok

  defp missing(%{high_headroom_bytes: high, headroom_bytes: headroom}, _need),
    do: max(high - headroom, 0)

  # Where there is no such watermark, what the guard says.
  defp missing(_report, need), do: need
end
