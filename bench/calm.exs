# What does the guard cost on a node that uses most of its limit, where nothing grows?
#
#     script/bench calm [--workers N,N,...] [--held P,P,...] [--seconds S] [--repeats R] [--short]
#
# N sleeping GenServers of priority :normal, and a process that holds binaries until the node uses
# P percent of its limit: 512 MiB, with more than 10,000 workers 1 GiB. VMs take turns, each in a
# cgroup of its own: under Supervisor without OOM, under OOM.Supervisor. The CPU is of all threads of
# the VM, read from outside, in /proc, once the node has been still for ten seconds.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes =
  Code.require_file("arena/used.ex", __DIR__) ++
    Code.require_file("support/guard_node.exs", __DIR__) ++
    Code.require_file("support/calm_node.exs", __DIR__)

defmodule Calm do
  alias Bench.{Table, VM}
  alias OOM.Test.Cgroup

  @mib 1_048_576
  @flags ~w(+P 8000000)
  @settle_ms 10_000
  @modes [:without, :with]

  def main(arguments, nodes) do
    switches = [
      workers: :string,
      held: :string,
      seconds: :integer,
      repeats: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)

    if why = Cgroup.unavailable() do
      IO.puts("calm: skipped: #{why}")
    else
      seconds = Table.option(options, :seconds, 10, 3)
      repeats = Table.option(options, :repeats, 5, 1)
      Table.head("CPU, us per s, in #{seconds} s without growth; #{repeats} turns")
      Table.row("", ["Supervisor", "OOM.Supervisor", "of the guard"])

      for workers <- Table.numbers(options, :workers, "1000,100000", "1000"),
          held <- Table.numbers(options, :held, "38,66,88", "66"),
          do: tell(workers, held, turns(nodes, workers, held, {seconds, repeats}))
    end
  end

  defp turns(nodes, workers, held, {seconds, repeats}) do
    for _ <- 1..repeats, mode <- @modes, do: {mode, turn(nodes, mode, workers, held, seconds)}
  end

  defp turn(nodes, mode, workers, held, seconds) do
    limit = if(workers > 10_000, do: 1_024, else: 512) * @mib
    options = [oom: if(mode == :with, do: []), flags: @flags, limit_bytes: limit]

    VM.with_vm(nodes, options, fn vm ->
      VM.call(vm, Guard.Node, :start, [mode, workers])
      # On the way up the level may rise; what counts is the rest.
      VM.call(vm, Calm.Node, :hold, [div(limit * held, 100)])
      Process.sleep(@settle_ms)
      cpu = VM.cpu_ns(vm)
      Process.sleep(seconds * 1_000)
      cpu = VM.cpu_ns(vm) - cpu
      %{cpu_us: div(cpu, seconds * 1_000), held: VM.call(vm, Calm.Node, :held_percent, [limit])}
    end)
  end

  defp tell(workers, held, turns) do
    [without, guarded] = for mode <- @modes, do: for({^mode, turn} <- turns, do: turn.cpu_us)
    reached = for {:with, turn} <- turns, do: turn.held

    Table.row("#{workers} workers, #{held} % (#{Table.median(reached)} %)", [
      Table.spread(without),
      Table.spread(guarded),
      "#{Table.median(guarded) - Table.median(without)}"
    ])
  end
end

Calm.main(System.argv(), nodes)
