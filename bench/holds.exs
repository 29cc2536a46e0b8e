# What does it cost to hold 10 to 100,000 children that cannot come back?
#
#     script/bench holds [--held N,N,...] [--seconds S] [--windows W] [--short]
#
# Three ways not to come back: the level is not normal; the level is normal and no child fits; or
# no child is due for long. CPU time is measured of the process bringing children back, by traces
# of the VM when the process runs. Traced, a process that wakes up to do next to nothing reads as
# some 40 us each time. Beside it, the cost before there was a queue: every 10 ms look at all held
# children, twice.

Code.require_file("support/table.exs", __DIR__)

defmodule Holds do
  alias Bench.Table
  alias OOM.Level
  alias OOM.Holds.Store

  @tick_ms 10
  @fits_nowhere 1_000_000_000_000_000
  @long_ms 1_000_000_000

  def main(arguments) do
    switches = [held: :string, seconds: :integer, windows: :integer, short: :boolean]
    {options, []} = OptionParser.parse!(arguments, strict: switches)
    seconds = Table.option(options, :seconds, 2, 1)
    windows = Table.option(options, :windows, 5, 2)
    sizes = Table.numbers(options, :held, "10,1000,100000", "10,1000")

    Logger.configure(level: :error)
    {:ok, _} = Application.ensure_all_started(:oom)
    Table.head("us of CPU a second; #{windows} windows of #{seconds} s")

    for size <- sizes do
      Table.row("#{size} held", ["with the queue", "a scan every #{@tick_ms} ms"])

      for {name, kind} <- [
            {"under pressure", :pressure},
            {"none fits", :room},
            {"none is due", :waiting}
          ] do
        {queue, scan} = turn(kind, size, seconds, windows)
        Table.row(name, [Table.spread(queue), Table.spread(scan)])
      end

      begin(size)
      IO.puts("")
    end
  end

  defp turn(kind, size, seconds, windows) do
    supervisor = spawn(fn -> Process.sleep(:infinity) end)
    Level.put(if kind == :pressure, do: :high, else: :normal)
    hold(supervisor, kind, size)
    process = Process.whereis(OOM.Holds)
    # Wait until the process has handled all messages.
    :sys.get_state(process, :infinity)
    queue = for _ <- 1..windows, do: cpu_us(process, seconds)
    scanner = spawn(fn -> scan_loop() end)
    scan = for _ <- 1..windows, do: cpu_us(scanner, seconds)
    Process.exit(scanner, :kill)
    end_supervisor(supervisor)
    {queue, scan}
  end

  # The way in and the way out: the cost of one hold, and of the end of its supervisor.
  defp begin(size) do
    supervisor = spawn(fn -> Process.sleep(:infinity) end)
    {in_us, _} = :timer.tc(fn -> hold(supervisor, :waiting, size) end)
    {out_us, _} = :timer.tc(fn -> end_supervisor(supervisor) end)

    {_, again} =
      {hold(supervisor = spawn(fn -> Process.sleep(:infinity) end), :waiting, size), supervisor}

    {init_us, _} = :timer.tc(&crash/0)
    end_supervisor(again)

    Table.row("us to hold one", [Table.spread([in_us / size])])
    Table.row("us for one at its supervisor's end", [Table.spread([out_us / size])])
    Table.row("ms to begin again after a crash", [Table.spread([init_us / 1_000])])
  end

  defp crash do
    before = Process.whereis(OOM.Holds)
    Process.exit(before, :kill)
    await(fn -> Process.whereis(OOM.Holds) not in [nil, before] end)
    :sys.get_state(OOM.Holds, :infinity)
  end

  defp end_supervisor(supervisor) do
    Process.exit(supervisor, :kill)
    await(fn -> Store.all(supervisor) == [] end)
    :sys.get_state(OOM.Holds, :infinity)
  end

  defp await(fun), do: fun.() || (Process.sleep(1) && await(fun))

  defp hold(supervisor, kind, size) do
    now = System.monotonic_time(:millisecond)
    options = [backoff: backoff(kind)]
    bytes = if kind == :room, do: @fits_nowhere, else: 1_000
    pid = spawn(fn -> :ok end)
    OOM.Victims.mark(pid, now, bytes)
    for id <- 1..size, do: :ok = OOM.Holds.Down.hold(supervisor, id, [{id, true}], pid, options)
    :sys.get_state(OOM.Holds, :infinity)
  end

  # Due at once, and overdue never.
  defp backoff(:waiting), do: [initial_ms: @long_ms, max_ms: @long_ms]
  defp backoff(_due), do: [initial_ms: 1, max_ms: @long_ms]

  # The former way: one look to find the next, one to count.
  defp scan_loop do
    Process.sleep(@tick_ms)

    with :normal <- OOM.level() do
      now = System.monotonic_time(:millisecond)

      Store.all()
      |> Enum.filter(&(&1.state == :held and &1.due_ms <= now))
      |> Enum.filter(&(&1.bytes <= 1 or now - &1.due_ms >= &1.backoff[:max_ms]))
      |> Enum.min_by(& &1.due_ms, fn -> nil end)
    end

    :ets.select_count(OOM.Holds, [{{:_, %{state: :"$1"}}, [{:"/=", :"$1", :running}], [true]}])
    scan_loop()
  end

  # Each stretch of the process from scheduled in to scheduled out.
  defp cpu_us(pid, seconds) do
    tracer = spawn_link(fn -> trace(nil, 0) end)
    :erlang.trace(pid, true, [:running, :monotonic_timestamp, {:tracer, tracer}])
    Process.sleep(seconds * 1_000)
    :erlang.trace(pid, false, [:running])
    send(tracer, {:tell, self()})
    receive(do: ({:ns, ns} -> ns / 1_000 / seconds))
  end

  defp trace(since, ns) do
    receive do
      {:trace_ts, _, :in, _, at} -> trace(at, ns)
      {:trace_ts, _, :out, _, at} -> trace(nil, if(since, do: ns + at - since, else: ns))
      {:tell, to} -> send(to, {:ns, System.convert_time_unit(ns, :native, :nanosecond)})
    end
  end
end

Holds.main(System.argv())
