# Broadway as it ships: a GenServer that starts a supervisor of its own. One message in 5,000 makes its
# handler leak. The node lives, and messages flow on.
defmodule Flow.Counter do
  use GenStage
  def init(_), do: {:producer, nil}

  def handle_demand(demand, state) do
    messages =
      for _ <- 1..demand,
          do: %Broadway.Message{data: next(), acknowledger: Broadway.NoopAcknowledger.init()}

    {:noreply, messages, state}
  end

  # Numbers go on where a restarted producer begins.
  defp next do
    :counters.add(:persistent_term.get(Flow), 1, 1)
    :counters.get(:persistent_term.get(Flow), 1)
  end
end

defmodule Flow do
  use Broadway

  def start_link(rate) do
    Broadway.start_link(__MODULE__,
      name: __MODULE__,
      context: rate,
      producer: [module: {Flow.Counter, nil}, concurrency: 1],
      processors: [default: [concurrency: 4, max_demand: 10]]
    )
  end

  def handle_message(_processor, %{data: n} = message, rate) do
    if rem(n, 5_000) == 500, do: Lab.leak(rate)
    Process.sleep(1)
    :counters.add(:persistent_term.get(Flow), 2, 1)
    message
  end

  def done, do: :counters.get(:persistent_term.get(Flow), 2)
end

[rate] = Enum.map(System.argv(), &String.to_integer/1)
Lab.start()
{:ok, _} = Application.ensure_all_started(:broadway)
:persistent_term.put(Flow, :counters.new(2, [:write_concurrency]))
Lab.tree([OOM.child_spec({Flow, rate}, priority: :low)])
Process.sleep(15_000)
before = Flow.done()
Process.sleep(5_000)
flow = div(Flow.done() - before, 5)
Lab.verdict([per_s: flow], flow > 100)
