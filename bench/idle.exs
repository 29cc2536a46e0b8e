# What does the guard cost an idle VM with 1,000 sleeping workers?
#
#     script/bench idle [--seconds S] [--repeats R]
#
# Two VMs at once would disturb each other, so they take turns: without, with, without, with ...
# Both differ only in the supervisor and in whether :oom runs. Each settles and is then left
# alone; CPU time and resident memory are read from outside, in /proc.

defmodule Idle do
  @settle_ms 2_000

  @figures [
    {:cpu_us, "CPU, µs per s"},
    {:rss_kib, "RSS, KiB"},
    {:pss_kib, "PSS, KiB"},
    {:total_kib, "erlang:memory(:total), KiB"},
    {:processes, "processes"}
  ]

  def main(arguments) do
    switches = [seconds: :integer, repeats: :integer]
    {options, []} = OptionParser.parse!(arguments, strict: switches)
    seconds = Keyword.get(options, :seconds, 20)
    repeats = Keyword.get(options, :repeats, 3)

    IO.puts(
      "1,000 sleeping workers, #{seconds} s, #{repeats} turns each; OTP #{System.otp_release()}, " <>
        "Elixir #{System.version()}, #{System.schedulers_online()} schedulers\n"
    )

    runs = for _ <- 1..repeats, mode <- ~w(without with), do: {mode, measure(mode, seconds)}
    without = for {"without", run} <- runs, do: run
    guarded = for {"with", run} <- runs, do: run

    row("median (min - max)", ["without", "with OOM", "ratio", "difference"])
    for {key, name} <- @figures, do: compare(name, pick(without, key), pick(guarded, key))

    IO.puts(
      "\nwatcher: #{spread(pick(guarded, :samples))} samples in #{seconds} s; " <>
        "limit that binds: #{hd(guarded).limit}"
    )
  end

  defp measure(mode, seconds) do
    node = Path.expand("idle_node.exs", __DIR__)
    ebin = :oom |> Application.app_dir("ebin")
    arguments = ["-pa", ebin, "-r", node, "-e", "Idle.Node.main(#{inspect(mode)})"]
    elixir = System.find_executable("elixir")

    port = Port.open({:spawn_executable, elixir}, [:binary, line: 1_000, args: arguments])
    {:os_pid, pid} = Port.info(port, :os_pid)
    "ready" = line(port)
    Process.sleep(@settle_ms)

    samples = port |> ask("samples") |> String.to_integer()
    cpu = cpu_ns(pid)
    Process.sleep(seconds * 1_000)
    cpu = cpu_ns(pid) - cpu
    # Before any question to the VM: answering costs memory.
    {rss, pss} = resident_kib(pid)
    [total, processes] = port |> ask("memory") |> String.split() |> Enum.map(&String.to_integer/1)
    samples = (port |> ask("samples") |> String.to_integer()) - samples
    limit = ask(port, "limit")
    # The VM ends with its standard input.
    Port.close(port)

    %{
      cpu_us: div(cpu, seconds * 1_000),
      rss_kib: rss,
      pss_kib: pss,
      total_kib: div(total, 1_024),
      processes: processes,
      samples: samples,
      limit: limit
    }
  end

  # In the VM

  defp ask(port, question) do
    Port.command(port, question <> "\n")
    line(port)
  end

  defp line(port) do
    receive do
      {^port, {:data, {:eol, line}}} -> if log?(line), do: line(port), else: line
    after
      30_000 -> raise "the VM under test does not answer"
    end
  end

  # Output of :logger; starts with the time, or is empty.
  defp log?(line), do: line == "" or line =~ ~r/^\d\d:\d\d:\d\d/

  # Outside

  # All threads, to the nanosecond; utime and stime would come in steps of 10 ms.
  defp cpu_ns(pid) do
    for file <- Path.wildcard("/proc/#{pid}/task/*/schedstat"), reduce: 0 do
      sum -> sum + (file |> File.read!() |> String.split() |> hd() |> String.to_integer())
    end
  end

  defp resident_kib(pid) do
    rollup = File.read!("/proc/#{pid}/smaps_rollup")

    kib = fn name ->
      [_, kib] = Regex.run(~r/^#{name}:\s+(\d+) kB$/m, rollup)
      String.to_integer(kib)
    end

    {kib.("Rss"), kib.("Pss")}
  end

  # The table

  defp compare(name, without, with) do
    {a, b} = {median(without), median(with)}
    ratio = if a == 0, do: "-", else: "#{Float.round(b / a, 2)}"
    row(name, [spread(without), spread(with), ratio, signed(b - a)])
  end

  defp row(name, cells) do
    padded = Enum.zip_with(cells, [26, 26, 7, 12], &String.pad_leading/2)
    IO.puts([String.pad_trailing(name, 27) | padded])
  end

  defp spread(values) do
    {least, most} = Enum.min_max(values)
    "#{median(values)} (#{least} - #{most})"
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
  defp pick(runs, key), do: Enum.map(runs, & &1[key])
  defp signed(n) when n > 0, do: "+#{n}"
  defp signed(n), do: "#{n}"
end

Idle.main(System.argv())
