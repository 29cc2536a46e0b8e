# When does it pay to hand the VM's cached segments back?
#
#     script/bench trim [--parts fits,flags,often,calls] [--limit-mib N] [--repeats R] [--seconds S]
#                       [--short]
#
# Each scheduler keeps up to 10 freed segments (`+MMmcs`) and drops one a second. OOM drops all of
# them when memory runs short. The alternatives are to do nothing and to lower +MMmcs for the
# whole life of the VM. Compared: the live data that fits below a real limit before the kernel
# kills, with nobody killed by OOM (OOM then gives up, and trims no more, half a second after
# becoming critical; the rows beside it trim on); resident memory after a heap is dropped; the
# throughput of processes building and dropping heaps; and the cost of a call to its scheduler.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes = Code.require_file("support/trim_node.exs", __DIR__)

defmodule Trim do
  alias Bench.{Table, VM}
  alias OOM.Test.Cgroup

  @mib 1_048_576

  # Nobody is killed, so only the trim shows.
  @vms [
    {"nothing", [oom: [kill: false, trim: false]]},
    {"OOM's trim", [oom: [kill: false, trim: true]]},
    {"a trim every 100 ms", [oom: [kill: false, trim: false], every_ms: 100]},
    {"a trim every 10 ms", [oom: [kill: false, trim: false], every_ms: 10]},
    {"+MMmcs 2", [oom: [kill: false, trim: false], flags: ~w(+MMmcs 2)]},
    {"+MMmcs 0", [oom: [kill: false, trim: false], flags: ~w(+MMmcs 0)]}
  ]

  # The short form: the options without a boot flag.
  @short ["nothing", "OOM's trim"]

  @workloads [list: "one growing list", sawtooth: "many, beside heaps built and dropped"]
  @every_ms [1_000, 100, 10]

  def main(arguments, nodes) do
    switches = [
      parts: :string,
      limit_mib: :integer,
      repeats: :integer,
      seconds: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)

    parts =
      options
      |> Table.option(:parts, "fits,flags,often,calls", "fits,often,calls")
      |> String.split(",")

    limit_mib = Table.option(options, :limit_mib, 512, 256)
    repeats = Table.option(options, :repeats, 5, 1)
    ms = 1_000 * Table.option(options, :seconds, 2, 1)

    Table.head("#{limit_mib} MiB, #{repeats} turns each")
    if "fits" in parts, do: fits(nodes, limit_mib, repeats, vms(options))
    if "flags" in parts, do: flags(nodes, repeats, ms, vms(options))
    if "often" in parts, do: often(nodes, repeats, ms)
    if "calls" in parts, do: calls(nodes, repeats)
  end

  defp vms(options) do
    if options[:short],
      do: for({name, _} = vm <- @vms, name in @short, do: vm),
      else: @vms
  end

  defp fits(nodes, limit_mib, repeats, vms) do
    if why = Cgroup.unavailable() do
      IO.puts("what fits: skipped: #{why}\n")
    else
      turns =
        for _ <- 1..repeats, {workload, _} <- @workloads, {name, options} <- vms do
          options = [limit_bytes: limit_mib * @mib] ++ options
          {{workload, name}, VM.with_vm(nodes, options, &fill(&1, workload, options[:every_ms]))}
        end

      figures = group(turns)

      for {workload, text} <- @workloads do
        Table.row("MiB that fit: #{text}", [])

        for {name, _} <- vms do
          figure = figures[{workload, name}]
          ratio = Table.ratio(figure, figures[{workload, "nothing"}])
          Table.row("  " <> name, [Table.spread(figure), ratio])
        end
      end

      IO.puts("")
    end
  end

  defp fill(vm, workload, every_ms) do
    if every_ms, do: VM.call(vm, Trim.Node, :keep_trimming, [every_ms])
    grow(vm, workload, 0)
  end

  # Until the VM dies.
  defp grow(vm, workload, mib) do
    case VM.try_call(vm, Trim.Node, :grow, [workload]) do
      {:ok, mib} -> grow(vm, workload, mib)
      :dead -> mib
    end
  end

  defp flags(nodes, repeats, ms, vms) do
    turns =
      for _ <- 1..repeats, {name, options} <- vms, not (name =~ "trim") do
        {name, VM.with_vm(nodes, options, &flag(&1, ms))}
      end

    name = &if(&1 == "nothing", do: "+MMmcs 10, the default", else: &1)
    figures = group(turns)
    Table.row("", ["MiB resident at 0.5 s", "after a trim", "heaps per s", "to the default"])

    for {vm, _} <- vms, figure = figures[vm] do
      heaps = Enum.map(figure, & &1.per_s)
      default = Enum.map(figures["nothing"], & &1.per_s)

      Table.row(name.(vm), [
        Table.spread(Enum.map(figure, & &1.dropped_mib)),
        Table.spread(Enum.map(figure, & &1.trimmed_mib)),
        Table.spread(heaps),
        Table.ratio(heaps, default)
      ])
    end

    IO.puts("")
  end

  # A heap of 300 MB is built and dropped; then heaps of many sizes, as fast as possible.
  defp flag(vm, ms) do
    VM.call(vm, Trim.Node, :build_and_drop, [])
    Process.sleep(500)
    dropped = VM.rss_bytes(vm)
    VM.call(vm, OOM.Trim, :start)
    Process.sleep(100)
    trimmed = VM.rss_bytes(vm)
    per_s = VM.call(vm, Trim.Node, :heaps_per_s, [ms, nil])
    %{dropped_mib: dropped / @mib, trimmed_mib: trimmed / @mib, per_s: per_s}
  end

  # In one VM, turn by turn: never, every 1,000 ms, every 100 ms, every 10 ms, never ...
  defp often(nodes, repeats, ms) do
    turns =
      VM.with_vm(nodes, [oom: []], fn vm ->
        VM.call(vm, Trim.Node, :heaps_per_s, [ms, nil])

        for _ <- 1..repeats,
            every_ms <- [nil | @every_ms],
            do: {every_ms, VM.call(vm, Trim.Node, :heaps_per_s, [ms, every_ms])}
      end)

    figures = group(turns)
    Table.row("OOM.Trim.start/0 is called", ["heaps per s", "to never"])

    for every_ms <- [nil | @every_ms] do
      name = if every_ms, do: "every #{every_ms} ms", else: "never"
      ratio = Table.ratio(figures[every_ms], figures[nil])
      Table.row("  " <> name, [Table.spread(figures[every_ms]), ratio])
    end

    IO.puts("")
  end

  defp calls(nodes, repeats) do
    count = 20 * repeats

    figures =
      VM.with_vm(nodes, [oom: []], fn vm ->
        for how <- [:empty, :full, :busy],
            do: {how, VM.call(vm, Trim.Node, :call_us, [how, count])}
      end)

    Table.row("us of a scheduler, per call", ["", "MiB given back"])

    for {how, name} <- [
          empty: "with nothing cached",
          full: "after a heap of 64 MB was dropped",
          busy: "while heaps are built and dropped"
        ] do
      calls = figures[how]
      us = Enum.map(calls, &elem(&1, 0))
      Table.row("  " <> name, [Table.spread(us), Table.spread(Enum.map(calls, &elem(&1, 1)))])
    end
  end

  defp group(turns), do: Enum.group_by(turns, &elem(&1, 0), &elem(&1, 1))
end

Trim.main(System.argv(), nodes)
