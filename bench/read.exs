# What does it cost to ask how things stand?
#
#     script/bench read [--calls N] [--repeats R] [--short]
#
# `OOM.level/0` and `OOM.admit?/1` are meant for hot paths, so both are compared with the cheapest
# reads there are, and with `:erlang.memory(:total)`, polled by code without OOM. From one
# process, and from as many at once as there are schedulers. An empty loop is subtracted.

Code.require_file("support/table.exs", __DIR__)

defmodule Read.Loops do
  @moduledoc false
  # One compiled loop for each subject, with nothing but the call inside.

  @subjects [
    {:empty, quote(do: :ok), 1},
    {:atomics, quote(do: :atomics.get(var!(word), 1)), 1},
    {:persistent_term, quote(do: :persistent_term.get(Read)), 1},
    {:both, quote(do: :atomics.get(:persistent_term.get(Read), 1)), 1},
    {:ets, quote(do: :ets.lookup(Read, :level)), 1},
    {:level, quote(do: OOM.level()), 1},
    {:admit, quote(do: OOM.admit?(:low)), 1},
    {:snapshot, quote(do: OOM.snapshot()), 50},
    {:memory, quote(do: :erlang.memory(:total)), 2_000}
  ]

  # The third part of a subject divides the number of calls, for slow calls.
  def subjects, do: for({name, _, fewer} <- @subjects, do: {name, fewer})

  for {name, code, _} <- @subjects do
    def run(unquote(name), 0, _word), do: :ok

    def run(unquote(name), n, word) do
      _ = word
      _ = unquote(code)
      run(unquote(name), n - 1, word)
    end
  end
end

defmodule Read do
  alias Bench.Table

  @names [
    atomics: ":atomics.get",
    persistent_term: ":persistent_term.get",
    both: "the two together",
    ets: ":ets.lookup, read_concurrency",
    level: "OOM.level/0",
    admit: "OOM.admit?(:low)",
    snapshot: "OOM.snapshot/0",
    memory: ":erlang.memory(:total)"
  ]

  def main(arguments) do
    switches = [calls: :integer, repeats: :integer, short: :boolean]
    {options, []} = OptionParser.parse!(arguments, strict: switches)
    calls = Table.option(options, :calls, 4_000_000, 400_000)
    repeats = Table.option(options, :repeats, 9, 3)

    Logger.configure(level: :none)
    {:ok, _} = Application.ensure_all_started(:oom)
    word = :atomics.new(1, signed: false)
    :persistent_term.put(Read, word)
    :ets.new(Read, [:named_table, :public, read_concurrency: true])
    :ets.insert(Read, {:level, :normal})

    processes = System.schedulers_online()
    Table.head("ns per call, #{calls} calls a turn, #{repeats} turns")

    turns =
      for _ <- 1..repeats,
          count <- Enum.uniq([1, processes]),
          {name, fewer} <- Read.Loops.subjects() do
        {{count, name}, ns_per_call(name, count, div(calls, fewer), word)}
      end

    figures = Enum.group_by(turns, &elem(&1, 0), &elem(&1, 1))
    Table.row("", ["1 process", "#{processes} at once", "to the two, 1 process"])
    Table.row("the empty loop", for(n <- [1, processes], do: Table.spread(figures[{n, :empty}])))

    for {name, text} <- @names do
      one = net(figures, 1, name)
      all = net(figures, processes, name)
      ratio = Table.ratio(one, net(figures, 1, :both))
      Table.row(text, [Table.spread(one), Table.spread(all), ratio])
    end
  end

  defp net(figures, count, name) do
    for {all, empty} <- Enum.zip(figures[{count, name}], figures[{count, :empty}]),
        do: max(all - empty, 0.0)
  end

  # The mean time per call over the processes.
  defp ns_per_call(name, processes, calls, word) do
    parent = self()

    pids =
      for _ <- 1..processes do
        spawn_link(fn ->
          receive(do: (:go -> :ok))
          began = System.monotonic_time(:nanosecond)
          Read.Loops.run(name, calls, word)
          send(parent, {self(), System.monotonic_time(:nanosecond) - began})
        end)
      end

    for pid <- pids, do: send(pid, :go)
    total = for(pid <- pids, do: receive(do: ({^pid, ns} -> ns))) |> Enum.sum()
    total / (processes * calls)
  end
end

Read.main(System.argv())
