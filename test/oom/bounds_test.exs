defmodule OOM.BoundsTest do
  # The number of workers and subscribers bounds OOM's own memory, and nothing of OOM is open to outside.
  # With a million workers and a hundred thousand subscribers:
  #
  #   OOM_BOUNDS_FACTOR=50 ELIXIR_ERL_OPTIONS="+fnu +P 4000000" mix test test/oom/bounds_test.exs
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Accountant, Asker, HeapCaps, Notifier, Plan, Steps, Units, Victims, Workers}

  @factor String.to_integer(System.get_env("OOM_BOUNDS_FACTOR", "1"))
  @workers 20_000 * @factor
  @subscribers 2_000 * @factor
  @mib 1_048_576
  @moduletag timeout: 60_000 * @factor

  defp rows,
    do: for(table <- [Workers, Plan, Asker, Steps, Units, HeapCaps], do: :ets.info(table, :size))

  defp memory(name), do: elem(Process.info(Process.whereis(name), :memory), 1)
  defp monitors(name), do: length(elem(Process.info(Process.whereis(name), :monitors), 1))

  # The memory the process keeps, without the garbage of its last message.
  defp kept(name) do
    :erlang.garbage_collect(Process.whereis(name))
    memory(name)
  end

  defp parts do
    for name <- [OOM.Guard, OOM.Shed, OOM.Reporter, OOM.Holds, Notifier, Asker],
        do: {name, kept(name)}
  end

  defp wait, do: receive(do: (:stop -> :ok))

  # Returns when all processes have run `fun`; the processes then wait.
  defp spawn_all(count, fun) do
    test = self()

    pids =
      for _ <- 1..count do
        spawn(fn ->
          fun.()
          send(test, :up)
          wait()
        end)
      end

    for _ <- 1..count, do: assert_receive(:up, 10_000 * @factor)
    pids
  end

  defp end_all(pids), do: Enum.each(pids, &send(&1, :stop))

  # Processes of earlier tests, about to end, do not count.
  defp settled(fun) do
    eventually(fn ->
      :sys.get_state(Accountant)
      before = fun.()
      Process.sleep(5)
      fun.() == before and before
    end)
  end

  test "workers that come and go leave nothing behind, and are monitored once" do
    before = settled(fn -> {rows(), monitors(Accountant)} end)
    idle = parts()

    pids =
      spawn_all(@workers, fn ->
        for priority <- [:low, :high, 3],
            do:
              OOM.set_priority(priority,
                handle_pressure: true,
                max_heap_size: {:percent_of_limit, 50}
              )
      end)

    {[workers, plan | _], monitored} = before
    :sys.get_state(Accountant)
    assert [workers + @workers, plan + @workers] == Enum.take(rows(), 2)
    assert (monitors(Accountant) - monitored) in @workers..(@workers + 1)

    # 353 bytes each.
    words = :ets.info(Workers, :memory) + :ets.info(Plan, :memory) + :ets.info(Asker, :memory)
    assert words * 8 < (workers + @workers) * 500 + @mib

    # However many workers there are, the rest of OOM keeps its size.
    for {name, bytes} <- parts(), do: assert(bytes < idle[name] + 100_000, "#{name}: #{bytes}")
    Accountant.pass()
    end_all(pids)
    ended = MapSet.new(pids)
    eventually(fn -> left(ended) == [] end)
    assert kept(Accountant) < @mib
  end

  test "workers that end while they register leave nothing behind" do
    ended =
      for _ <- 1..20, reduce: MapSet.new() do
        ended ->
          pids =
            for _ <- 1..500 do
              spawn_monitor(fn ->
                size = {:percent_of_limit, 50}
                OOM.set_priority(:low, handle_pressure: true, max_heap_size: size)
                Steps.put(self(), 10 * @mib)
              end)
            end

          # From outside, in the same moment.
          for {pid, _} <- pids do
            Workers.attach(pid, 250, self(), :dying, [])
            Asker.listens(pid, true)
            Steps.put(pid, 10 * @mib)
            Process.exit(pid, :kill)
          end

          for {_, ref} <- pids, do: assert_receive({:DOWN, ^ref, _, _, _}, 5_000)
          for {pid, _} <- pids, into: ended, do: pid
      end

    # A sweep removes the keys left by two concurrent writers, and a node at rest makes no sweep for minutes.
    eventually(fn ->
      :ok = Accountant.pass()
      Plan.sweep()
      left(ended) == []
    end)
  end

  # Returns the rows of the processes in all tables, and the processes the accountant monitors.
  defp left(pids) do
    rows =
      for table <- [Workers, Plan, Asker, Steps, Units, HeapCaps],
          row <- :ets.tab2list(table),
          Enum.any?(words(row), &MapSet.member?(pids, &1)),
          do: {table, row}

    {:monitors, monitors} = Process.info(Process.whereis(Accountant), :monitors)
    rows ++ for {:process, pid} <- monitors, MapSet.member?(pids, pid), do: {:monitor, pid}
  end

  defp words(row) when is_tuple(row), do: row |> Tuple.to_list() |> Enum.flat_map(&words/1)
  defp words(word), do: [word]

  test "a new accountant monitors each worker once" do
    pids = spawn_all(1_000, fn -> OOM.set_priority(:low) end)
    before = Process.whereis(Accountant)
    ref = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}
    eventually(fn -> Process.whereis(Accountant) not in [nil, before] end)
    :sys.get_state(Accountant)
    # Besides the workers, a probe or a reading of owned memory may be monitored.
    assert (monitors(Accountant) - Workers.count()) in 0..16
    end_all(pids)
    eventually(fn -> not Enum.any?(pids, &Workers.member?/1) end)
  end

  test "subscribers cost the guard nothing, are told once each, and leave nothing behind" do
    report = OOM.Native.watcher_report(eventually(&OOM.Tables.watcher/0))
    guard = kept(OOM.Guard)
    before = {map_size(:sys.get_state(Notifier)), monitors(Notifier)}

    pids =
      spawn_all(@subscribers, fn ->
        for _ <- 1..3, do: OOM.subscribe()
      end)

    assert map_size(:sys.get_state(Notifier)) == elem(before, 0) + @subscribers
    assert monitors(Notifier) == elem(before, 1) + @subscribers
    assert kept(OOM.Guard) < guard + 100_000

    Notifier.level(:normal, %{report | level: :elevated})
    :sys.get_state(Notifier)
    on_exit(fn -> Notifier.level(:elevated, %{report | level: :normal}) end)

    for pid <- pids do
      {:messages, messages} = Process.info(pid, :messages)
      assert [{:oom, level, %OOM.Snapshot{level: level}}] = messages
    end

    # An unread change takes no more than 1,000 bytes in a subscriber.
    {:messages, [message]} = Process.info(hd(pids), :messages)
    assert :erts_debug.flat_size(message) * 8 < 1_000

    for pid <- pids, do: Process.exit(pid, :kill)
    eventually(fn -> {map_size(:sys.get_state(Notifier)), monitors(Notifier)} == before end)
  end

  test "marks of victims are not kept" do
    now = System.monotonic_time(:millisecond)
    for n <- 1..1_000, do: Victims.mark({:none, n}, now - 61_000, 1)
    Accountant.pass()
    refute :ets.member(Victims, {:none, 1})
    refute :ets.member(Victims, {:none, 1_000})
  end

  test "a pass that is asked for while one is under way is a whole one" do
    pids = spawn_all(1_000, fn -> OOM.set_priority(:low) end)
    on_exit(fn -> Accountant.pressure(:normal, 0) end)

    for n <- 1..100 do
      Accountant.pressure(:high, 0)
      :sys.get_state(Accountant)
      Victims.mark({:none, n}, System.monotonic_time(:millisecond) - 61_000, 1)
      Accountant.pass()
      refute :ets.member(Victims, {:none, n})
    end

    end_all(pids)
  end

  test "what others make up fills no memory: each problem is said once, and no more than a hundred" do
    before = :sys.get_state(OOM.Reporter).problems

    ExUnit.CaptureLog.capture_log(fn ->
      for n <- 1..300, do: OOM.Reporter.problem("made up by #{inspect(self())}: #{n}")
      :sys.get_state(OOM.Reporter)
    end)

    assert MapSet.size(:sys.get_state(OOM.Reporter).problems) == 100
    :sys.replace_state(OOM.Reporter, &%{&1 | problems: before})
  end

  describe "from outside of the node" do
    # Returns all calls the library can make, with the calling module.
    defp calls do
      {:ok, modules} = :application.get_key(:oom, :modules)

      for module <- modules,
          not String.starts_with?(inspect(module), "OOM.Test."),
          {:ok, {_, [imports: imports]}} = :beam_lib.chunks(:code.which(module), [:imports]),
          {m, f, _arity} <- imports,
          do: {module, m, f}
    end

    test "there is no way in: nothing listens, runs programs, or is known beyond the node" do
      network = [:gen_tcp, :gen_udp, :gen_sctp, :socket, :ssl, :inet, :inets, :httpd, :httpc]
      nodes = [:rpc, :erpc, :net_kernel, :pg, :slave, :peer, Node, :os, System.Shell]

      # On a socket of another process, before its owner is killed.
      allowed = [{:inet, :setopts}]

      for {module, m, f} <- calls(), {m, f} not in allowed do
        where = "#{inspect(module)} calls #{inspect(m)}.#{f}"
        refute m in network, where
        refute m in nodes, where

        refute {m, f} in [{System, :cmd}, {System, :shell}, {Port, :open}, {:erlang, :open_port}],
               where

        refute {m, f} in [{:global, :register_name}, {:erlang, :set_cookie}], where
      end

      for {name, pid, _, _} <- Supervisor.which_children(OOM.Application) do
        assert {:links, links} = Process.info(pid, :links)
        refute Enum.any?(links, &is_port/1), "#{inspect(name)} has a port"
      end

      for name <- :global.registered_names(), do: refute(inspect(name) =~ "OOM")
    end

    test "no atom, no code and no term is made of what comes from there" do
      makers = [:binary_to_atom, :list_to_atom, :binary_to_term, :to_atom]

      for {module, m, f} <- calls() do
        where = "#{inspect(module)} calls #{inspect(m)}.#{f}"
        refute f in makers, where
        refute m in [Code, :erl_eval, :erl_scan, :erl_parse], where
      end
    end

    test "no file is written" do
      reads = [:read, :exists?, :regular?, :dir?]

      for {module, m, f} <- calls(), m in [File, :file, :prim_file, :dets, :disk_log] do
        assert m == File and f in reads, "#{inspect(module)} calls #{inspect(m)}.#{f}"
      end
    end

    test "nor by the native part, which knows of no network, and of no atom that is not its own" do
      sources = Path.wildcard("native/{oom,oom_nif}/src/**/*.rs")
      assert length(sources) > 20

      forbidden =
        ~r/std::net|UnixStream|TcpStream|File::create|OpenOptions|fs::(write|remove|rename|create)|Command::new|Atom::from_(str|bytes)|from_term_bytes|\bO_(WRONLY|RDWR|CREAT)/

      for source <- sources, not String.ends_with?(source, ["testing.rs", "_tests.rs"]) do
        # Tests within a file write the trees they read.
        [code | _tests] = source |> File.read!() |> String.split("#[cfg(test)]")
        code = without_event_control(code)
        assert [] = Regex.run(forbidden, code) || [], source
      end
    end

    # The only file written: cgroup.event_control, which asks the kernel to tell when usage has grown.
    defp without_event_control(code) do
      open = ~r/OpenOptions::new\(\)[^;]*\.open\(directory\.join\("cgroup\.event_control"\)\)\?;/
      code |> String.replace(~r/^use .*OpenOptions.*$/m, "") |> String.replace(open, "")
    end
  end
end
