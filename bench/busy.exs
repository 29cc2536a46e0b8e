# What does the guard do to a healthy node in use, close to its limit?
#
#     script/bench busy [--loads W:K:P:M,...] [--runs N] [--seconds S] [--short]
#
# W workers build a list of K KiB each P ms and drop it, beside M MiB of binaries that stay, under 512 MiB: what the
# node takes it gives back. Each load is run below OOM.Supervisor, and below Supervisor without OOM. Told are the runs
# survived, the workers that died, how often work of priority :low was refused, the highest use of the limit at the
# end of a second, and the CPU of the VM.

Code.require_file("support/table.exs", __DIR__)
Code.require_file("support/vm.exs", __DIR__)
nodes = Code.require_file("../test/support/busy.ex", __DIR__)

defmodule BusyBench do
  alias Bench.{Table, VM}
  alias OOM.Test.{Busy, Cgroup}

  @limit_bytes 512 * 1_048_576
  @loads "50:200:100:370,30:500:100:360,50:1000:300:200,20:4000:300:100"

  def main(arguments, nodes) do
    switches = [loads: :string, runs: :integer, seconds: :integer, short: :boolean]
    {options, []} = OptionParser.parse!(arguments, strict: switches)

    if why = Cgroup.unavailable() do
      IO.puts("busy: skipped: #{why}")
    else
      runs = Table.option(options, :runs, 3, 1)
      seconds = Table.option(options, :seconds, 15, 5)
      Table.head("#{runs} runs of #{seconds} s under 512 MiB")

      for load <- loads(Table.option(options, :loads, @loads, "50:200:100:370")) do
        for {name, supervisor, oom} <- [{"OOM", OOM.Supervisor, []}, {"without", Supervisor, nil}] do
          results = for _ <- 1..runs, do: run(supervisor, oom, load, seconds, nodes)
          IO.puts("#{words(load)}, #{name}: #{told(results, load)}")
        end
      end
    end
  end

  defp loads(text) do
    for load <- String.split(text, ",", trim: true),
        do: load |> String.split(":") |> Enum.map(&String.to_integer/1)
  end

  defp run(supervisor, oom, load, seconds, nodes) do
    VM.with_vm(nodes, [oom: oom, limit_bytes: @limit_bytes], fn vm ->
      with {:ok, workers} <- VM.try_call(vm, Busy, :start, [supervisor | load]),
           before = VM.cpu_ns(vm),
           [_ | _] = looks <- looks(vm, [workers, 1, oom != nil], seconds) do
        cpu_ms = (VM.cpu_ns(vm) - before) / 1.0e6 / seconds
        [{alive, _, _} | _] = looks
        refused = looks |> Enum.map(&elem(&1, 1)) |> Enum.sum()
        used = looks |> Enum.map(&elem(&1, 2)) |> Enum.max()
        %{alive: alive, refused: refused / seconds, used: used, cpu_ms: cpu_ms}
      end
    end)
  end

  # A look each second, the last first; `:dead` where the VM dies.
  defp looks(vm, arguments, seconds) do
    Enum.reduce_while(1..seconds, [], fn _, looks ->
      case VM.try_call(vm, Busy, :watch, arguments) do
        {:ok, {alive, refused}} ->
          {:cont, [{alive, refused, 100 * Cgroup.usage(vm.cgroup) / @limit_bytes} | looks]}

        :dead ->
          {:halt, :dead}
      end
    end)
  end

  defp words([count, kib, period_ms, held_mib]),
    do: "#{count} workers, #{kib} KiB each #{period_ms} ms, beside #{held_mib} MiB"

  defp told(results, [count | _]) do
    lived = Enum.reject(results, &(&1 == :dead))
    spread = fn figure -> lived |> Enum.map(figure) |> Table.spread() end

    "survived #{length(lived)} of #{length(results)}; died #{spread.(&(count - &1.alive))}; " <>
      ":low refused #{spread.(&round(100 * &1.refused))} % of the time; " <>
      "at most #{spread.(&round(&1.used))} % used; " <>
      "CPU #{spread.(&round(&1.cpu_ms))} ms a second"
  end
end

BusyBench.main(System.argv(), nodes)
