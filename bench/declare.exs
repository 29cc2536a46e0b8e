# What does it cost to register a worker, in time and in memory?
#
#     script/bench declare [--calls N] [--processes N] [--children N] [--repeats R] [--short]
#
# Three parts: a call of `OOM.set_priority/1` and the alternative of keeping such a list oneself;
# the weight of a registered process; and the start of children under both supervisors.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes = Code.require_file("support/declare_node.exs", __DIR__)

defmodule Declare do
  alias Bench.{Table, VM}

  @calls [
    clock: "the clock alone",
    set_priority: "OOM.set_priority(:low)",
    capped: "OOM.set_priority(:low, max_heap_size: n)",
    flag: "Process.flag(:max_heap_size, n)",
    ets: ":ets.insert, write_concurrency",
    registry: "Registry.register, :duplicate"
  ]

  @registered [
    none: "no registration",
    set_priority: "OOM.set_priority(:low)",
    ets: ":ets.insert, no monitor",
    registry: "Registry.register, :duplicate"
  ]

  @supervisors [
    {"Supervisor", Supervisor, []},
    {"OOM.Supervisor", OOM.Supervisor, []},
    {"OOM.Supervisor, no heap cap", OOM.Supervisor, [oom: [max_heap_size: :infinity]]}
  ]

  def main(arguments, nodes) do
    switches = [
      calls: :integer,
      processes: :integer,
      children: :integer,
      repeats: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)
    repeats = Table.option(options, :repeats, 7, 2)
    Table.head("#{repeats} turns each")

    calls(nodes, Table.option(options, :calls, 20_000, 5_000), repeats)
    weights(nodes, Table.option(options, :processes, 100_000, 20_000), min(repeats, 3))
    starts(nodes, Table.option(options, :children, 10_000, 2_000), repeats)
  end

  defp calls(nodes, calls, repeats) do
    turns =
      VM.with_vm(nodes, [oom: []], fn vm ->
        for _ <- 1..repeats,
            {how, _} <- @calls,
            do: {how, VM.call(vm, Declare.Node, :calls, [how, calls])}
      end)

    first = group(turns, & &1.first_ns)
    again = group(turns, & &1.again_ns)
    Table.row("ns per call, the clock's included", ["first of a process", "again"])
    for {how, name} <- @calls, do: Table.row(name, [spread(first, how), spread(again, how)])
    IO.puts("")
  end

  # Each in a separate VM: a grown table never shrinks.
  defp weights(nodes, processes, repeats) do
    turns =
      for _ <- 1..repeats, {how, _} <- @registered do
        weight =
          VM.with_vm(nodes, [oom: []], &VM.call(&1, Declare.Node, :weigh, [how, processes]))

        {how, weight}
      end

    total = group(turns, & &1.total_bytes)
    tables = group(turns, & &1.tables_bytes)
    accountant = group(turns, & &1.accountant_bytes)

    Table.row("bytes per process of #{processes}", ["erlang:memory", "more than none", "tables"])

    for {how, name} <- @registered do
      more = for {with, without} <- Enum.zip(total[how], total[:none]), do: with - without
      Table.row(name, [spread(total, how), Table.spread(more), spread(tables, how)])
    end

    Table.row("of it: OOM.Accountant's heap", ["", spread(accountant, :set_priority)])
    IO.puts("")
  end

  defp starts(nodes, children, repeats) do
    turns =
      VM.with_vm(nodes, [oom: []], fn vm ->
        for _ <- 1..repeats,
            how <- [:all, :one_by_one],
            {name, module, options} <- @supervisors do
          cpu = VM.cpu_ns(vm)
          us = VM.call(vm, Declare.Node, :children, [module, options, how, children])
          cpu_us = (VM.cpu_ns(vm) - cpu) / 1_000 / children
          {{how, name}, %{us: us, cpu_us: cpu_us}}
        end
      end)

    time = group(turns, & &1.us)
    cpu = group(turns, & &1.cpu_us)

    for {how, title} <- [all: "start_link with them", one_by_one: "start_child for each"] do
      Table.row("us per child of #{children},", [
        "time",
        "time to Supervisor",
        "CPU, with the end"
      ])

      IO.puts(title)

      for {name, _, _} <- @supervisors do
        key = {how, name}
        ratio = Table.ratio(time[key], time[{how, "Supervisor"}])
        Table.row("  " <> name, [spread(time, key), ratio, spread(cpu, key)])
      end
    end
  end

  defp group(turns, value), do: Enum.group_by(turns, &elem(&1, 0), &value.(elem(&1, 1)))
  defp spread(figures, key), do: Table.spread(figures[key])
end

Declare.main(System.argv(), nodes)
