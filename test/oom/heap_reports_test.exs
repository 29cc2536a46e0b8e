defmodule OOM.HeapReportsTest do
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.Test.HeldTree
  alias OOM.{HeapReports, Victims}

  test "a process that passes its cap is marked, with its size" do
    {pid, ref} =
      spawn_monitor(fn ->
        OOM.set_priority(:low, max_heap_size: 1_000_000)
        Enum.to_list(1..1_000_000)
      end)

    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    eventually(fn -> Victims.marked?(pid) end)
    assert Victims.bytes(pid) > 1_000_000
  end

  test "a :kill by hand marks nobody" do
    {:ok, pid} = Agent.start(fn -> [] end)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000

    # An earlier report would have passed before the report of a later process.
    {other, ref} =
      spawn_monitor(fn ->
        OOM.set_priority(:low, max_heap_size: 1_000_000)
        Enum.to_list(1..1_000_000)
      end)

    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    eventually(fn -> Victims.marked?(other) end)
    refute Victims.marked?(pid)
  end

  test "a worker that passes its cap is held and not counted" do
    grows = OOM.child_spec(HeldTree.worker(:a), max_heap_size: 1_000_000)
    {sup, %{a: a}} = HeldTree.start(:long, [grows], max_restarts: 0)
    ref = Process.monitor(a)
    eventually(fn -> Process.info(a, :garbage_collection) |> elem(1) |> capped?() end)

    # The verdict falls when the report has come, however busy the machine is.
    :sys.suspend(sup)
    :sys.replace_state(a, fn _ -> Enum.to_list(1..1_000_000) end, 5_000) |> catch_exit()
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    eventually(fn -> Victims.marked?(a) end)
    :sys.resume(sup)

    assert %{bytes: bytes} = eventually(fn -> HeldTree.held(sup, :a) end)
    assert bytes > 1_000_000
    assert %{active: 0} = Supervisor.count_children(sup)
  end

  test "a crash is restarted and a met cap is held, whenever the reports are read" do
    children =
      for id <- [:a, :b, :c],
          do: OOM.child_spec(HeldTree.worker(id), max_heap_size: 1_000_000)

    {sup, pids} = HeldTree.start(:long, children, max_restarts: 1)

    for pid <- Map.values(pids),
        do: eventually(fn -> Process.info(pid, :garbage_collection) |> elem(1) |> capped?() end)

    reports = Process.whereis(OOM.HeapReports)
    :ok = :sys.suspend(reports)
    on_exit(fn -> Process.alive?(reports) && :sys.resume(reports) end)

    passes = fn pid ->
      catch_exit(:sys.replace_state(pid, fn _ -> Enum.to_list(1..1_000_000) end))
    end

    for {id, end_it} <- [a: passes, b: &Process.exit(&1, :kill), c: passes] do
      ref = Process.monitor(pids[id])
      end_it.(pids[id])
      assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    end

    refute Victims.marked?(pids.a) or Victims.marked?(pids.c)
    :ok = :sys.resume(reports)
    assert %{active: 1} = Supervisor.count_children(sup)
    assert for(id <- [:a, :b, :c], HeldTree.held(sup, id), do: id) == [:a, :c]
  end

  # The VM words the report differently there, and a release's node has a name by default.
  test "a capped worker is held on a node with a name" do
    script = """
    {:ok, _} = Application.ensure_all_started(:oom)
    worker = OOM.child_spec({Agent, fn -> 0 end}, max_heap_size: 1_000_000)
    {:ok, sup} = OOM.Supervisor.start_link([worker], strategy: :one_for_one, max_restarts: 0)
    Process.flag(:trap_exit, true)
    [{_, pid, _, _}] = Supervisor.which_children(sup)
    await = fn await, condition -> condition.() || (Process.sleep(1) && await.(await, condition)) end
    ref = Process.monitor(pid)
    :sys.suspend(sup)
    Agent.cast(pid, fn _ -> Enum.to_list(1..1_000_000) end)
    receive do: ({:DOWN, ^ref, _, _, :killed} -> :ok)
    await.(await, fn -> OOM.Victims.marked?(pid) end)
    :sys.resume(sup)
    await.(await, fn -> match?([%OOM.Held{id: Agent}], OOM.held()) end)
    true = Node.alive?()
    IO.puts("held")
    """

    ebin = Path.join(:code.lib_dir(:oom), "ebin")
    name = "oom_#{System.pid()}_#{System.unique_integer([:positive])}"
    # Without a daemon that would stay.
    erl = "-start_epmd false -erl_epmd_port 0"
    args = ["--erl", erl, "--sname", name, "-pa", ebin, "-e", script]
    {output, 0} = System.cmd("elixir", args, stderr_to_stdout: true)
    assert output =~ ~r/^held$/m
  end

  describe "is known whatever the log is told:" do
    setup do
      level = :logger.get_primary_config().level

      on_exit(fn ->
        :logger.set_primary_config(:level, level)
        _ = :logger.remove_primary_filter(__MODULE__)
      end)
    end

    for level <- [:none, :emergency, :critical] do
      test "level #{inspect(level)}" do
        :logger.set_primary_config(:level, unquote(level))
        assert Victims.marked?(capped())
      end
    end

    test "a filter before all others that stops everything" do
      :ok = :logger.add_primary_filter(__MODULE__, {fn _, _ -> :stop end, nil})
      assert Victims.marked?(capped())
    end
  end

  describe "the VM's system logger" do
    test "is this process, and was OTP's before" do
      assert system_logger() == Process.whereis(HeapReports)
      assert :sys.get_state(HeapReports).before == Process.whereis(:logger_proxy)
    end

    test "hands each report on, unchanged" do
      before = :sys.get_state(HeapReports)
      test = self()
      :sys.replace_state(HeapReports, &%{&1 | before: test})
      on_exit(fn -> :sys.replace_state(HeapReports, fn _ -> before end) end)
      pid = capped()
      assert_receive {:log, :error, format, [^pid | _], %{error_logger: %{emulator: true}}}
      assert to_string(format) =~ "maximum heap size reached"
      crashed = spawn(fn -> raise "it" end)
      assert_receive {:log, :error, _, [^crashed, {%RuntimeError{}, _}], %{pid: ^crashed}}

      for report <- [{:log, :info, %{a: 1}, %{}}, {:log, :error, ~c"a ~p", [1], %{}}] do
        send(HeapReports, report)
        assert_receive ^report
      end

      send(HeapReports, :unknown)
      assert %{before: ^test} = :sys.get_state(HeapReports)
      refute_received :unknown
    end

    test "is OTP's again after a stop of the application" do
      on_exit(fn -> Application.ensure_all_started(:oom) end)
      :ok = Application.stop(:oom)
      assert system_logger() == Process.whereis(:logger_proxy)
      {:ok, _} = Application.ensure_all_started(:oom)
      assert system_logger() == Process.whereis(HeapReports)
    end

    test "is the next incarnation after a crash" do
      crashed = Process.whereis(HeapReports)
      Process.exit(crashed, :kill)
      eventually(fn -> Process.whereis(HeapReports) not in [nil, crashed] end)
      assert %{before: before} = :sys.get_state(HeapReports)
      assert before == Process.whereis(:logger_proxy)
      assert Victims.marked?(capped())
    end

    test "is taken back from OTP's, which takes it after a flood" do
      for holder <- [Process.whereis(:logger_proxy), :undefined, :logger] do
        :erlang.system_flag(:system_logger, holder)
        send(HeapReports, :look)
        assert %{before: ^holder} = :sys.get_state(HeapReports)
        assert system_logger() == Process.whereis(HeapReports)
        assert Victims.marked?(capped())
      end

      :erlang.system_flag(:system_logger, Process.whereis(:logger_proxy))
      send(HeapReports, :look)
    end

    test "is taken back without being told" do
      :erlang.system_flag(:system_logger, Process.whereis(:logger_proxy))
      eventually(fn -> system_logger() == Process.whereis(HeapReports) end)
    end

    test "is left to anyone else" do
      :erlang.system_flag(:system_logger, self())
      send(HeapReports, :look)
      assert :sys.get_state(HeapReports).before == Process.whereis(:logger_proxy)
      assert system_logger() == self()
      :erlang.system_flag(:system_logger, Process.whereis(HeapReports))
    end

    test "goes on to `logger` where the former holder has ended" do
      before = :sys.get_state(HeapReports)
      on_exit(fn -> :sys.replace_state(HeapReports, fn _ -> before end) end)
      gone = spawn(fn -> receive(do: (:end -> :ok)) end)

      :sys.replace_state(HeapReports, fn state ->
        %{state | before: gone, monitor: Process.monitor(gone)}
      end)

      send(gone, :end)
      eventually(fn -> :sys.get_state(HeapReports).before == Process.whereis(:logger_proxy) end)
    end

    test "is no bottleneck: a flood is through long before OTP's logger has looked at it" do
      before = :sys.get_state(HeapReports)
      sink = spawn_link(fn -> Process.sleep(:infinity) end)
      :sys.replace_state(HeapReports, &%{&1 | before: sink})
      on_exit(fn -> :sys.replace_state(HeapReports, fn _ -> before end) end)
      report = {:log, :error, ~c"Error in process ~p with exit value:~n~p~n", [self(), :why], %{}}
      for _ <- 1..10_000, do: send(HeapReports, report)
      pid = capped()
      assert Victims.marked?(pid)
      # A victim is marked before its report goes on.
      eventually(fn -> elem(Process.info(sink, :message_queue_len), 1) >= 10_001 end)
    end
  end

  describe "a report" do
    test "of anything else marks nobody" do
      for {format, args} <- [
            {~c"~p", [self()]},
            {~c"~p", [self(), 1, 2, true]},
            {~c"~p", [self(), :a@b, 1, 2, true]},
            {~c"maximum heap size reached", [self(), :a@b, :c, true]},
            {~c"maximum heap size reached", [self()]},
            {"text", [self(), 1, 2, true]}
          ],
          do: assert(:ok = HeapReports.note({:log, :error, format, args, %{}}))

      assert :ok = HeapReports.note({:log, :error, %{label: :x}, %{}})
      refute Victims.marked?(self())
    end

    test "marks only where the VM kills" do
      {:ok, pid} = Agent.start_link(fn -> 0 end)
      format = ~c"     Process: ~p on node~n  Context: maximum heap size reached~n"
      HeapReports.note(report(format, [pid, 1_000, 2_000, false, true, []]))
      refute Victims.marked?(pid)
      HeapReports.note(report(format, [pid, 1_000, 2_000, true, true, []]))
      assert Victims.bytes(pid) == 16_000
    end

    test "is known of a node with a name, and of later releases" do
      format = ~c"     Process: ~p on node ~p~n  Context: maximum heap size reached~n"

      # OTP 21, 25, and from 28 on with a stacktrace.
      for rest <- [[true, []], [true, 0, []], [true, 0, [], [{:a, :b, 1, []}]]] do
        {:ok, pid} = Agent.start_link(fn -> 0 end)
        HeapReports.note(report(format, [pid, :a@b, 1_000, 2_000, true | rest]))
        assert Victims.bytes(pid) == 16_000
      end
    end

    test "takes the cap for the size where binaries counted" do
      {:ok, pid} = Agent.start_link(fn -> 0 end)
      format = ~c"     Process: ~p~n  Context: maximum heap size reached~n"
      HeapReports.note(report(format, [pid, 1_000, 363, true, true, 0, []]))
      assert Victims.bytes(pid) == 8_000
    end
  end

  defp report(format, args),
    do: {:log, :error, format, args, %{error_logger: %{emulator: true}}}

  # Returns a process ended by its cap, once the report has come.
  defp capped do
    {pid, ref} =
      spawn_monitor(fn ->
        OOM.set_priority(:low, max_heap_size: 1_000_000)
        Enum.to_list(1..1_000_000)
      end)

    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    eventually(fn -> Victims.marked?(pid) end)
    pid
  end

  defp system_logger, do: :erlang.system_info(:system_logger)

  defp capped?(info), do: info[:max_heap_size].size == 125_000
end
