# What does tracking the processes below plain supervisors cost, idle and coming and going?
#
#     script/bench tree [--processes N] [--starts N] [--seconds S] [--windows W] [--repeats R]
#                       [--short]
#
# N connections under ten DynamicSupervisors, below a Supervisor without OOM, or an
# OOM.Supervisor. Then N short-lived connections of N / starts seconds each, so as many live as
# before. The CPU is of the whole VM, read from outside, in /proc.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes = Code.require_file("support/tree_node.exs", __DIR__)

defmodule Tree do
  alias Bench.{Table, VM}

  @flags ~w(+P 8000000)

  def main(arguments, nodes) do
    switches = [
      processes: :integer,
      starts: :integer,
      seconds: :integer,
      windows: :integer,
      repeats: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)

    load = %{
      size: Table.option(options, :processes, 100_000, 1_000),
      starts: Table.option(options, :starts, 10_000, 1_000),
      seconds: Table.option(options, :seconds, 5, 1),
      windows: Table.option(options, :windows, 4, 1),
      settle_ms: Table.option(options, :settle_ms, 15_000, 2_000)
    }

    Table.head(
      "#{load.size} connections, #{load.starts} starts a second; CPU of #{load.windows} windows " <>
        "of #{load.seconds} s in a VM"
    )

    turns =
      for _ <- 1..Table.option(options, :repeats, 1, 1),
          mode <- [:without, :with],
          do: {mode, turn(nodes, mode, load)}

    tell(turns)
  end

  defp turn(nodes, mode, load) do
    oom = if mode == :with, do: []

    idle =
      VM.with_vm(nodes, [oom: oom, flags: @flags], fn vm ->
        VM.call(vm, Tree.Node, :start, [mode, load.size])
        Process.sleep(load.settle_ms)
        windows = for _ <- 1..load.windows, do: window(vm, load.seconds)
        walks = if mode == :with, do: walks(vm), else: [{0, 0}]

        %{
          windows: windows,
          known: known(vm),
          walks: walks,
          rss: VM.rss_bytes(vm) / load.size / 1_024
        }
      end)

    busy =
      VM.with_vm(nodes, [oom: oom, flags: @flags], fn vm ->
        VM.call(vm, Tree.Node, :start, [mode, 0])
        VM.call(vm, Tree.Node, :churn, [load.starts, div(load.size * 1_000, load.starts)])
        Process.sleep(load.settle_ms)
        windows = for _ <- 1..load.windows, do: window(vm, load.seconds)
        %{windows: windows, known: for(_ <- 1..10, do: Process.sleep(300) && known(vm))}
      end)

    %{idle: idle, busy: busy}
  end

  defp walks(vm), do: for(_ <- 1..5, do: VM.call(vm, Tree.Node, :walk))

  # Registered share of the living, in percent.
  defp known(vm) do
    {registered, live} = VM.call(vm, Tree.Node, :counts)
    registered / live * 100
  end

  # In ms per s.
  defp window(vm, seconds) do
    all = VM.cpu_ns(vm)
    Process.sleep(seconds * 1_000)
    (VM.cpu_ns(vm) - all) / 1_000_000 / seconds
  end

  defp tell(turns) do
    figures = fn value -> for mode <- [:without, :with], do: all(turns, mode, value) end
    Table.row("", ["Supervisor", "OOM.Supervisor", "ratio"])

    for {name, value} <- [
          {"idle: CPU, ms per s", & &1.idle.windows},
          {"a walk past all, ms", fn turn -> for {_, ms} <- turn.idle.walks, do: ms end},
          {"a walk over all, ms", fn turn -> for {ms, _} <- turn.idle.walks, do: ms end},
          {"known, % of those alive", &[&1.idle.known]},
          {"RSS, KiB per connection", &[&1.idle.rss]},
          {"coming and going: CPU, ms per s", & &1.busy.windows},
          {"known, % of those alive", & &1.busy.known}
        ] do
      [without, with] = figures.(value)
      Table.row(name, [Table.spread(without), Table.spread(with), Table.ratio(with, without)])
    end
  end

  defp all(turns, mode, value),
    do: for({^mode, turn} <- turns, figure <- value.(turn), do: figure)
end

Tree.main(System.argv(), nodes)
