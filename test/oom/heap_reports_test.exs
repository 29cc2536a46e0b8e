defmodule OOM.HeapReportsTest do
  use ExUnit.Case, async: true

  import OOM.Test.Eventually

  alias OOM.Test.HeldTree
  alias OOM.{HeapReports, Victims}

  test "a process that passes its cap is marked, with what it held" do
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

    # A report would have passed before that of a later one.
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

  # The VM words the report otherwise there, and a release's node has a name unless it is told not to.
  test "so it is on a node that has a name" do
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

  describe "the filter" do
    test "lets every event pass unchanged" do
      for msg <- [
            {:string, "text"},
            {:report, %{label: :x}},
            {~c"~p", [self()]},
            {~c"~p", [self(), 1, 2, true]},
            {~c"~p", [self(), :a@b, 1, 2, true]},
            {~c"maximum heap size reached", [self(), :a@b, :c, true]},
            {~c"maximum heap size reached", [self()]},
            {"text", [self(), 1, 2, true]}
          ],
          meta <- [%{}, %{error_logger: %{emulator: true}}] do
        assert :ignore = HeapReports.filter(%{level: :error, meta: meta, msg: msg}, nil)
      end

      refute Victims.marked?(self())
    end

    test "marks only where the VM kills" do
      {:ok, pid} = Agent.start_link(fn -> 0 end)
      format = ~c"     Process: ~p on node~n  Context: maximum heap size reached~n"
      event = fn kill? -> event(format, [pid, 1_000, 2_000, kill?, true, []]) end
      assert :ignore = HeapReports.filter(event.(false), nil)
      refute Victims.marked?(pid)
      assert :ignore = HeapReports.filter(event.(true), nil)
      assert Victims.bytes(pid) == 16_000
    end

    test "knows the report of a node that has a name" do
      {:ok, pid} = Agent.start_link(fn -> 0 end)
      format = ~c"     Process: ~p on node ~p~n  Context: maximum heap size reached~n"
      args = [pid, :a@b, 1_000, 2_000, true, true, 0, []]
      assert :ignore = HeapReports.filter(event(format, args), nil)
      assert Victims.bytes(pid) == 16_000
    end

    test "takes the cap for what was held where binaries counted" do
      {:ok, pid} = Agent.start_link(fn -> 0 end)
      format = ~c"     Process: ~p~n  Context: maximum heap size reached~n"

      assert :ignore =
               HeapReports.filter(event(format, [pid, 1_000, 363, true, true, 0, []]), nil)

      assert Victims.bytes(pid) == 8_000
    end

    test "is installed once, however often" do
      :ok = HeapReports.install()
      :ok = HeapReports.install()
      filters = :logger.get_primary_config().filters
      assert [_] = for({OOM.HeapReports, filter} <- filters, do: filter)
    end
  end

  defp event(format, args),
    do: %{level: :error, meta: %{error_logger: %{emulator: true}}, msg: {format, args}}

  defp capped?(info), do: info[:max_heap_size].size == 125_000
end
