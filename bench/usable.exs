# How much of its limit may a node use steadily, with nobody killed, held or refused?
#
#     script/bench usable [--limits M,M,...] [--kinds K,K,...] [--runs N] [--seconds S] [--continue]
#                         [--config "..."] [--short]
#
# 50 ordinary workers of priority :normal load a share of the limit as fast as possible, one VM at
# a time, and then sit still for S seconds, the VMs of a share side by side. The search is for the largest share, in steps of 2 %,
# without a kill or a hold and with `admit?(:normal)` in all N runs; beside it, the largest share
# at which the kernel does not kill the same VM without a guard, in N runs of 3 s: such a VM dies
# while it loads, or not at all. Runs of 3 s find where to begin. The result is the working set
# then held, by the cgroup's files. Heaps grow in leaps and are copied when collected, so heaps
# need room in any VM. Each run is kept in tmp/, and --continue makes only missing runs; all
# limits and kinds take hours. --config gives options of the library.
#
# Kinds: binaries (of 64 KiB), ets (rows of 1 KiB), heaps (a list in each worker), one_heap (100 MB,
# rewritten at 1 MB/s, and binaries), mixture (binaries, ets and heaps, a third each).

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)
Code.require_file("support/usable_search.exs", __DIR__)
Code.require_file("support/usable_record.exs", __DIR__)
Code.require_file("arena/decision_code.ex", __DIR__)
Code.require_file("arena/readme.ex", __DIR__)

nodes =
  Code.require_file("arena/used.ex", __DIR__) ++
    Code.require_file("support/usable_node.exs", __DIR__)

defmodule Usable do
  alias Arena.{DecisionCode, Readme}
  alias Bench.{Table, VM}
  alias OOM.Test.Cgroup
  alias Usable.{Record, Search}

  @mib 1_048_576
  @step 2
  @least 20
  @most 98
  # A run that only shows whether a share is near the edge, or that is without a guard.
  @short_seconds 3

  @kinds [
    binaries: "binaries",
    ets: "ETS",
    heaps: "50 list heaps",
    one_heap: "one heap of 100 MB",
    mixture: "mixture"
  ]

  def main(arguments, nodes) do
    switches = [
      limits: :string,
      kinds: :string,
      runs: :integer,
      seconds: :integer,
      continue: :boolean,
      config: :string,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)
    if why = Cgroup.unavailable(), do: stop("usable: skipped: #{why}")

    limits = Table.numbers(options, :limits, "256,512,1024,4096", "256")
    kinds = options |> Table.option(:kinds, Enum.join(names(), ","), "binaries") |> kinds()

    bench = %{
      nodes: nodes,
      runs: Table.option(options, :runs, 5, 1),
      seconds: Table.option(options, :seconds, 20, 2),
      config: elem(Code.eval_string("[#{options[:config]}]"), 0)
    }

    hash = DecisionCode.hash()
    tag = if bench.config == [], do: hash, else: "#{hash}-#{:erlang.phash2(bench.config)}"

    Table.head("#{bench.runs} of #{bench.runs} runs of #{bench.seconds} s; decision code #{hash}")

    for {guard, name} <- [guarded: tag, unguarded: "unguarded"] do
      path = "tmp/usable-#{name}.tsv"
      Process.put(guard, Record.open(path, options[:continue] == true))
      IO.puts("#{guard}: #{path}")
    end

    cells =
      for limit <- limits, kind <- kinds do
        unguarded = largest(:unguarded, kind, limit, bench)
        # Guarded may hold more, for a guard gives memory back.
        guarded = largest(:guarded, kind, limit, bench)
        IO.puts("#{limit} MiB, #{@kinds[kind]}: #{words(guarded)}, unguarded #{words(unguarded)}")
        {{limit, kind}, {guarded, unguarded}}
      end

    IO.puts(["\n", table(limits, kinds, Map.new(cells)), "\n"])

    IO.puts(
      "percent of the limit that are used steadily, with the guard / without; in brackets what"
    )

    IO.puts(
      "the data alone should have made of it: heaps have free room, and leave freed segments"
    )
  end

  # The requested share, and the held share: the median of its runs.
  defp largest(guard, kind, limit, bench) do
    shares = Enum.to_list(@least..@most//@step)
    short = min(@short_seconds, bench.seconds)
    seconds = if guard == :guarded, do: bench.seconds, else: short
    runs = &runs({guard, kind, limit, &1, &2}, &3, bench)
    well? = fn runs -> Enum.all?(runs, &(elem(&1, 0) in [:ok, :too_small])) end
    short? = &well?.(runs.(&1, short, 1))
    all? = &well?.(runs.(&1, seconds, bench.runs))

    with percent when percent != nil <- Search.largest(shares, short?, all?),
         runs = runs.(percent, seconds, bench.runs),
         [_ | _] = held <- for({:ok, share} <- runs, do: share) do
      {percent, Table.median(held)}
    else
      _ -> nil
    end
  end

  # The first `count` runs of a kind; those not made yet are made side by side.
  defp runs({guard, kind, limit, percent, seconds} = key, count, bench) do
    missing = count - length(Record.runs(Process.get(guard), key))
    tasks = for _ <- 1..missing//1, do: Task.async(fn -> once(key, bench) end)

    for {_, facts} = result <- Task.await_many(tasks, :infinity) do
      Process.put(guard, Record.add(Process.get(guard), key, result))
      what = "#{limit} MiB #{kind} #{guard} #{percent} %, #{seconds} s"
      IO.puts("  #{what}: #{elem(result, 0)} #{inspect(facts)}")
    end

    Enum.take(Record.runs(Process.get(guard), key), count)
  end

  defp once({guard, kind, limit, percent, seconds}, bench) do
    oom = if guard == :guarded, do: bench.config

    VM.with_vm(bench.nodes, [oom: oom, limit_bytes: limit * @mib], fn vm ->
      arguments = [guard, kind, percent, limit * @mib, seconds]

      # One VM loads at a time, alone on the machine but for VMs that sit still.
      load = fn -> VM.try_call(vm, Usable.Node, :load, arguments) end

      with {:ok, _} <- :global.trans({:load, self()}, load, [node()]),
           {:ok, result} <- VM.try_call(vm, Usable.Node, :result, []) do
        result
      else
        :dead -> {:dead, [oom_kills: Cgroup.oom_kills(vm.cgroup)]}
      end
    end)
  end

  defp table(limits, kinds, cells) do
    head = ["limit" | Enum.map(kinds, &@kinds[&1])]

    rows =
      for limit <- limits do
        ["#{limit} MiB" | for(kind <- kinds, do: cell(cells[{limit, kind}]))]
      end

    Readme.table([head | rows])
  end

  defp cell({guarded, unguarded}), do: "#{words(guarded)} / #{words(unguarded)}"

  # Where not even the least sensible share is held.
  defp words(nil), do: "none"
  defp words({percent, share}), do: "#{share} % (#{percent})"

  defp names, do: Keyword.keys(@kinds)

  defp kinds(text) do
    for word <- String.split(text, ",", trim: true) do
      Enum.find(names(), &(to_string(&1) == word)) || stop("usable: there is no kind #{word}")
    end
  end

  defp stop(words) do
    IO.puts(words)
    System.halt(0)
  end
end

Usable.main(System.argv(), nodes)
