# How long from the triggering message to the first kill, with 1,000 to 1,000,000 workers?
#
#     script/bench first_kill [--workers N,N,...] [--crossings K] [--short]
#
# In a real cgroup: a process unknown to OOM leaks until the guard ends a worker, K times over;
# each time the largest worker holds 128 MiB and all other workers next to nothing. The guard is
# traced, with the VM's own timestamps: its messages from the watcher, and the process spawned for
# a victim. A process of top priority sees the victim's end. A kill is due when three quarters of
# the floor are left: the grower is unknown, and `:low` workers pay for the growth from there on.
# The level is critical up to a tenth of a second of growth above the floor, and longer where the
# growth slows down.
#
# Beside it, the way without a plan: ask every process for its memory at the trigger.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)

nodes = Code.require_file("support/first_kill_node.exs", __DIR__)

defmodule FirstKill do
  alias Bench.{Table, VM}
  alias OOM.Test.Cgroup

  # The room to leak, at 300 to 400 MB/s: about a second.
  @room_bytes 480 * 1_048_576
  @plenty_bytes 16 * 1_073_741_824
  @flags ~w(+P 8000000)

  def main(arguments, nodes) do
    switches = [workers: :string, crossings: :integer, short: :boolean]
    {options, []} = OptionParser.parse!(arguments, strict: switches)
    crossings = Table.option(options, :crossings, 21, 3)
    sizes = Table.numbers(options, :workers, "1000,100000,1000000", "1000")

    if why = Cgroup.unavailable() do
      IO.puts("skipped: #{why}")
    else
      Table.head("us; #{crossings} crossings of a real limit")
      for size <- sizes, do: run(nodes, size, crossings)
    end
  end

  defp run(nodes, workers, crossings) do
    options = [oom: [max_heap_size: :infinity], limit_bytes: @plenty_bytes, flags: @flags]

    {turns, ranking} =
      VM.with_vm(nodes, options, fn vm ->
        VM.call(vm, FirstKill.Node, :start, [workers, crossings])
        ranking = for _ <- 1..3, do: VM.call(vm, FirstKill.Node, :rank)
        {for(_ <- 1..crossings, do: cross(vm)), ranking}
      end)

    Table.row("#{workers} workers", ["us"])
    tell("message to the kill's process", turns, :spawned_us)
    tell("message to the victim's DOWN", turns, :down_us)
    tell("due to the victim's DOWN", turns, :due_us)
    tell("critical to the victim's DOWN", turns, :critical_us)
    tell("picking the victim, alone", turns, :pick_us)
    tell("victims in a crossing", turns, :victims)
    tell("  of them small", turns, :small)
    Table.row("asking all for their memory", [Table.spread(ranking)])
    IO.puts("")
  end

  defp cross(vm) do
    # Lowered to the VM's present usage, as in resizing a container.
    VM.call(vm, FirstKill.Node, :settle)
    Cgroup.limit!(vm.cgroup, Cgroup.usage(vm.cgroup) + @room_bytes)
    VM.call(vm, FirstKill.Node, :cross)
  end

  defp tell(name, turns, key), do: Table.row(name, [Table.spread(Enum.map(turns, & &1[key]))])
end

FirstKill.main(System.argv(), nodes)
