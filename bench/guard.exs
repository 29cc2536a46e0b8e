# What does the guard cost with many workers, idle and with 10,000 starts a second?
#
#     script/bench guard [--processes N,N,...] [--starts N] [--seconds S] [--windows W] [--repeats R]
#                        [--short]
#
# N sleeping GenServers under supervisors of 10,000 each, and beside them ten supervisors whose
# children live for a second. VMs take turns: under Supervisor without OOM, under OOM.Supervisor.
# The CPU is of the whole VM, read from outside, in /proc, for several windows in each VM. A
# million processes take about 4 GB and two minutes a turn.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes = Code.require_file("support/guard_node.exs", __DIR__)

defmodule Guard do
  alias Bench.{Table, VM}

  @watcher_thread "oom_watcher"
  @flags ~w(+P 8000000)

  def main(arguments, nodes) do
    switches = [
      processes: :string,
      starts: :integer,
      seconds: :integer,
      windows: :integer,
      repeats: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)
    sizes = Table.numbers(options, :processes, "1000,100000,1000000", "1000")

    load = %{
      starts: Table.option(options, :starts, 10_000, 1_000),
      seconds: Table.option(options, :seconds, 3, 1),
      windows: Table.option(options, :windows, 3, 1),
      # A VM just started is not idle: caps are set, and the first figures gathered.
      settle_ms: Table.option(options, :settle_ms, 6_000, 2_000)
    }

    Table.head(
      "#{load.starts} starts a second; CPU of #{load.windows} windows of #{load.seconds} s in a VM"
    )

    for size <- sizes do
      repeats = Table.option(options, :repeats, 1, 1)

      turns =
        for _ <- 1..repeats,
            mode <- [:without, :with],
            do: {mode, turn(nodes, mode, size, load)}

      tell(size, turns)
    end
  end

  defp turn(nodes, mode, size, load) do
    oom = if mode == :with, do: []

    VM.with_vm(nodes, [oom: oom, flags: @flags], fn vm ->
      {cpu, us} = cpu_us(vm, fn -> VM.call(vm, Guard.Node, :start, [mode, size]) end)
      Process.sleep(load.settle_ms)
      idle = for _ <- 1..load.windows, do: window(vm, load.seconds)
      {pass_cpu, pass} = if mode == :with, do: pass(vm), else: {0, 0}
      VM.call(vm, Guard.Node, :churn, [mode, load.starts])
      # Until as many end as start.
      Process.sleep(2_000)
      began = VM.call(vm, Guard.Node, :started)
      busy = for _ <- 1..load.windows, do: window(vm, load.seconds)
      started = VM.call(vm, Guard.Node, :started) - began

      %{
        start_us: us / size,
        start_cpu_us: cpu / size,
        idle: idle,
        busy: busy,
        starts: started / (load.windows * load.seconds),
        pass_us: pass / size,
        pass_cpu_us: pass_cpu / size,
        rss_kib: VM.rss_bytes(vm) / 1_024 / size
      }
    end)
  end

  # The figures of all workers, gathered once.
  defp pass(vm), do: cpu_us(vm, fn -> VM.call(vm, OOM.Accountant, :pass) end)

  defp cpu_us(vm, fun) do
    cpu = VM.cpu_ns(vm)
    {us, _} = :timer.tc(fun)
    {(VM.cpu_ns(vm) - cpu) / 1_000, us}
  end

  # In us per s.
  defp window(vm, seconds) do
    {all, watcher} = {VM.cpu_ns(vm), VM.cpu_ns(vm, @watcher_thread)}
    Process.sleep(seconds * 1_000)
    per_s = &((&1 - &2) / 1_000 / seconds)
    {per_s.(VM.cpu_ns(vm), all), per_s.(VM.cpu_ns(vm, @watcher_thread), watcher)}
  end

  defp tell(size, turns) do
    figures = fn value -> for mode <- [:without, :with], do: all(turns, mode, value) end
    Table.row("#{size} workers", ["Supervisor", "OOM.Supervisor", "ratio"])

    for {name, value} <- [
          {"start, us per child", &[&1.start_us]},
          {"start, us of CPU per child", &[&1.start_cpu_us]},
          {"idle: CPU, us per s", &Enum.map(&1.idle, fn {all, _} -> all end)},
          {"  the watcher's thread", &Enum.map(&1.idle, fn {_, watcher} -> watcher end)},
          {"starts a second, reached", &[&1.starts]},
          {"churning: CPU, us per s", &Enum.map(&1.busy, fn {all, _} -> all end)},
          {"  the watcher's thread", &Enum.map(&1.busy, fn {_, watcher} -> watcher end)},
          {"RSS, KiB per worker, churning", &[&1.rss_kib]},
          {"one pass over all, us per worker", &[&1.pass_us]},
          {"  its CPU", &[&1.pass_cpu_us]}
        ] do
      [without, with] = figures.(value)
      Table.row(name, [Table.spread(without), Table.spread(with), Table.ratio(with, without)])
    end

    IO.puts("")
  end

  defp all(turns, mode, value),
    do: for({^mode, turn} <- turns, figure <- value.(turn), do: figure)
end

Guard.main(System.argv(), nodes)
