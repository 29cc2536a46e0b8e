# What happens to the connections that are there when more come than fit?
#
#     script/bench crowd [--limits M,M,...] [--rates N,N,...] [--kib K,K,...] [--runs N] [--seconds S] [--short]
#
# Workers of a few KiB each start below a plain DynamicSupervisor, so many a second, for S seconds: as connections
# that come and stay. None grows after its start. The rates stand beside the KiB of each worker: --rates 1000,400
# --kib 40,300 are two floods. Each is run with OOM, and once without. Told are the runs survived, how many of the
# first 300 workers live at the end, and how many workers there are; the median, and the least and the most.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)
nodes = Code.require_file("../test/support/crowd.ex", __DIR__)

defmodule CrowdBench do
  alias Bench.{Table, VM}
  alias OOM.Test.Cgroup

  @mib 1_048_576
  @first 300

  def main(arguments, nodes) do
    switches = [
      limits: :string,
      rates: :string,
      kib: :string,
      runs: :integer,
      seconds: :integer,
      short: :boolean
    ]

    {options, []} = OptionParser.parse!(arguments, strict: switches)

    if why = Cgroup.unavailable() do
      IO.puts("crowd: skipped: #{why}")
    else
      limits = Table.numbers(options, :limits, "256,512", "256")
      rates = Table.numbers(options, :rates, "1000,400,5000,20000", "1000")
      kib = Table.numbers(options, :kib, "40,300,100,40", "40")
      runs = Table.option(options, :runs, 4, 1)
      seconds = Table.option(options, :seconds, 10, 5)
      Table.head("#{runs} runs of #{seconds} s")

      for limit <- limits, {rate, kib} <- Enum.zip(rates, kib) do
        flood = {limit, rate, kib, seconds}
        guarded = for _ <- 1..runs, do: run([], flood, nodes)
        IO.puts(words(flood, guarded, run(nil, flood, nodes)))
      end
    end
  end

  # {the first that live, all that live}, or :dead.
  defp run(config, {limit, rate, kib, seconds}, nodes) do
    VM.with_vm(nodes, [oom: config, limit_bytes: limit * @mib], fn vm ->
      flood = [:normal, rate * seconds, rate, kib, @first]

      with {:ok, first} <- VM.try_call(vm, OOM.Test.Crowd, :flood, flood),
           {:ok, alive} <- VM.try_call(vm, OOM.Test.Crowd, :alive, [first]) do
        alive
      end
    end)
  end

  defp words({limit, rate, kib, _seconds}, runs, control) do
    lived = Enum.reject(runs, &(&1 == :dead))
    first = Enum.map(lived, &elem(&1, 0))
    all = Enum.map(lived, &elem(&1, 1))

    "#{limit} MiB, #{rate} a second of #{kib} KiB: survived #{length(lived)} of #{length(runs)}; " <>
      "of the first #{@first} live #{Table.spread(first)}; of all #{Table.spread(all)}; " <>
      "without OOM: #{if control == :dead, do: "dead", else: "survived"}"
  end
end

CrowdBench.main(System.argv(), nodes)
