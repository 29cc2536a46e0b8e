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

  describe "the filter" do
    test "lets every event pass unchanged" do
      for msg <- [
            {:string, "text"},
            {:report, %{label: :x}},
            {~c"~p", [self()]},
            {~c"~p", [self(), 1, 2, true]},
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
