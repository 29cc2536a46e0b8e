defmodule OOM.HeapCapsTest do
  # The application's own parts run.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{HeapCaps, Tables, Units, Workers}
  alias OOM.HeapCaps.{Limits, Scan}

  @gib 1_073_741_824
  @mib 1_048_576

  # The watcher never tells a lower limit. A look takes the limit in.
  defp limit(bytes) do
    limits = %{{:configured, nil} => {bytes, System.monotonic_time(:millisecond)}}
    :sys.replace_state(HeapCaps, &%{&1 | limits: limits})
    send(HeapCaps, :look)
    eventually(fn -> HeapCaps.limit_bytes() == bytes end)
  end

  setup do
    on_exit(fn ->
      if Process.whereis(HeapCaps) do
        :sys.replace_state(HeapCaps, &%{&1 | limits: Limits.new()})
        limit = OOM.snapshot().limit_bytes
        send(HeapCaps, :look)
        eventually(fn -> HeapCaps.limit_bytes() == limit end)
      end
    end)
  end

  defp start(options, fun \\ fn -> nil end, oom \\ []) do
    child = OOM.child_spec(%{id: :worker, start: {Agent, :start_link, [fun]}}, options)
    options = [strategy: :one_for_one, oom: oom]
    start = {OOM.Supervisor, :start_link, [[child], options]}
    supervisor = start_supervised!(%{id: make_ref(), start: start})
    [{:worker, pid, _, _}] = Supervisor.which_children(supervisor)
    pid
  end

  defp cap(pid), do: flag(pid).size * 8

  defp flag(pid) do
    {_, info} = Process.info(pid, :garbage_collection)
    info[:max_heap_size]
  end

  defp counts_binaries?(flag),
    do: OOM.VM.otp_release() < 26 or flag.include_shared_binaries

  defp capped(pid, bytes), do: eventually(fn -> cap(pid) == bytes end)

  # Waits until the process has served all earlier messages.
  defp uncapped(pid) do
    eventually(fn -> match?([{_, _, _, nil, _}], :ets.lookup(HeapCaps, pid)) end)
    eventually(fn -> Agent.get(pid, fn _ -> cap(self()) end) == 0 end)
  end

  describe "the default" do
    setup do
      limit(2 * @gib)
      :ok
    end

    test "is for workers below :high" do
      capped(start(priority: :low), 2 * @gib)
      capped(start([]), 2 * @gib)
      capped(start(priority: 749), 2 * @gib)
      for priority <- [:high, 750, :protected], do: uncapped(start(priority: priority))
    end

    test "is not for a worker with a word of its own" do
      uncapped(start([], fn -> OOM.set_priority(:protected) end))
    end

    test "goes and comes with the priority" do
      pid = start([])
      capped(pid, 2 * @gib)
      OOM.set_priority(pid, :protected)
      uncapped(pid)
      OOM.set_priority(pid, :low)
      capped(pid, 2 * @gib)
      Agent.update(pid, fn _ -> OOM.set_priority(:high) end)
      assert cap(pid) == 0
    end

    test "is not for a worker bound to a protected one" do
      pid = start(priority: :low)
      capped(pid, 2 * @gib)
      Units.bind(pid, :protected)
      uncapped(pid)
      Units.bind(pid, 0)
      capped(pid, 2 * @gib)
    end

    test "is not for a Task that says so, which nobody can reach from outside" do
      test = self()

      task = fn ->
        before = cap(self())
        OOM.set_priority(:protected)
        send(test, {:caps, before, cap(self())})
        receive(do: (:never -> nil))
      end

      start = {OOM.Supervisor, :start_link, [[{Task, task}], [strategy: :one_for_one]]}
      start_supervised!(%{id: :tasks, start: start})
      assert_receive {:caps, before, 0}, 5_000
      assert before == 2 * @gib
    end

    test "leaves room for a worker that has grown slowly" do
      pid = start([], fn -> Enum.to_list(1..6_000_000) end)
      capped(pid, 2 * @gib)
      Agent.update(pid, fn list -> [0 | list] end)
      limit(512 * @mib)
      eventually(fn -> cap(pid) >= 6 * 6_000_000 * 16 end)
      assert cap(pid) < 2 * @gib
    end
  end

  describe "a cap that was asked for" do
    test "stays, whatever the priority" do
      for priority <- [:low, :high, :protected] do
        capped(start(priority: priority, max_heap_size: 80_000_000), 80_000_000)
      end

      pid = start([max_heap_size: 80_000_000], fn -> OOM.set_priority(:protected) end)
      capped(pid, 80_000_000)
      OOM.set_priority(pid, :low)
      assert Agent.get(pid, fn _ -> cap(self()) end) == 80_000_000
    end

    # OTP 25 has no such flag, and OOM says so once.
    test "with the binaries, of a child, a supervisor, a Task, or the worker itself" do
      :sys.replace_state(HeapCaps, &%{&1 | told?: false})
      size = %{size: 80_000_000, include_shared_binaries: true}
      test = self()

      task = fn ->
        send(test, {:task, flag(self())})
        receive(do: (:never -> nil))
      end

      start =
        {OOM.Supervisor, :start_link,
         [[{Task, task}], [strategy: :one_for_one, oom: [max_heap_size: size]]]}

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          pids = [
            start(max_heap_size: size),
            start([], fn -> nil end, max_heap_size: size),
            start([], fn -> OOM.set_priority(:low, max_heap_size: size) end)
          ]

          for pid <- pids do
            capped(pid, 80_000_000)
            assert counts_binaries?(flag(pid))
          end

          start_supervised!(%{id: :tasks, start: start})
          assert_receive {:task, flag}, 5_000
          assert flag.size == 10_000_000 and counts_binaries?(flag)
          :sys.get_state(HeapCaps)
        end)

      expected = if OOM.VM.otp_release() < 26, do: 1, else: 0
      assert length(String.split(log, "include_shared_binaries")) == 1 + expected
    end

    test "by the worker wins over the supervisor's" do
      own = fn -> OOM.set_priority(:low, max_heap_size: 90_000_000) end
      pid = start([max_heap_size: 80_000_000], own)
      # Served after the supervisor's messages.
      eventually(fn ->
        Process.info(pid, :message_queue_data) == {:message_queue_data, :off_heap}
      end)

      assert Agent.get(pid, fn _ -> cap(self()) end) == 90_000_000
      pid = start([], fn -> OOM.set_priority(:low, max_heap_size: :infinity) end)
      assert Agent.get(pid, fn _ -> cap(self()) end) == 0
    end
  end

  describe "the limit moves" do
    test "up and down, and shares of it follow" do
      limit(4 * @gib)
      default = start([])
      half = start(max_heap_size: {:percent_of_limit, 50})
      supervisors = start([], fn -> nil end, max_heap_size: {:percent_of_limit, 25})
      own = start([], fn -> OOM.set_priority(:high, max_heap_size: {:percent_of_limit, 10}) end)
      with_binaries = %{size: {:percent_of_limit, 20}, include_shared_binaries: true}
      with_binaries = start(max_heap_size: with_binaries)
      fixed = start(max_heap_size: 80_000_000)
      protected = start(priority: :protected)
      all = [default, half, supervisors, own, with_binaries, fixed]
      words = &(div(trunc(&1), 8) * 8)
      caps = &[&1, div(&1, 2), div(&1, 4), words.(&1 / 10), words.(&1 / 5), 80_000_000]

      for bytes <- [4 * @gib, 8 * @gib, @gib] do
        limit(bytes)
        for {pid, cap} <- Enum.zip(all, caps.(bytes)), do: capped(pid, cap)
      end

      assert counts_binaries?(flag(with_binaries))
      assert cap(protected) == 0
      # By less than a hundredth: not worth a message to every worker.
      send(HeapCaps, {:limit, @gib + div(@gib, 200)})
      :sys.get_state(HeapCaps)
      assert HeapCaps.limit_bytes() == @gib
    end

    test "never below the room a worker may need for its memory" do
      limit(4 * @gib)
      pid = start([max_heap_size: {:percent_of_limit, 50}], fn -> Enum.to_list(1..1_000_000) end)
      capped(pid, 2 * @gib)
      limit(64 * @mib)
      eventually(fn -> cap(pid) < 2 * @gib end)
      assert cap(pid) >= 6 * 16_000_000
      assert Agent.get(pid, &length/1) == 1_000_000
      Agent.update(pid, fn list -> :erlang.garbage_collect() && list end)
    end

    test "nor for its binaries, where binaries count" do
      limit(4 * @gib)
      binaries = fn -> for _ <- 1..20, do: :binary.copy(<<1>>, 1_000_000) end
      size = %{size: {:percent_of_limit, 50}, include_shared_binaries: true}

      [pid, other] = [
        start([max_heap_size: size], binaries),
        start([max_heap_size: size.size], binaries)
      ]

      for pid <- [pid, other], do: capped(pid, 2 * @gib)
      limit(64 * @mib)
      eventually(fn -> cap(pid) < 2 * @gib and cap(other) < 2 * @gib end)
      assert cap(pid) >= 6 * 20_000_000
      assert cap(other) == 32 * @mib
    end
  end

  test "nothing is left of an ended worker" do
    pid = start([])
    eventually(fn -> :ets.member(HeapCaps, pid) end)
    Agent.stop(pid)
    eventually(fn -> not Workers.member?(pid) and not :ets.member(HeapCaps, pid) end)
  end

  test "without the application there is no limit, and nobody is told" do
    assert Tables.config()
    assert HeapCaps.limit_changed(@gib) == :ok
  end

  describe "Limits" do
    test "the lowest limit seen counts, as its file has the limit now" do
      read = fn
        "/a" -> {:ok, "500\n"}
        "/b" -> {:ok, "max\n"}
        "/c" -> {:error, :enoent}
      end

      seen = fn limits, source, file, bytes, ms ->
        Limits.seen(limits, source, file, bytes, ms, read)
      end

      limits = Limits.new() |> seen.(:cgroup_v1, "/a", 1_000, 0) |> seen.(:host, "/m", 9_000, 1)
      assert Limits.lowest(limits) == 1_000
      # The limit binds again, and has moved.
      assert limits |> seen.(:cgroup_v1, "/a", 4_000, 2) |> Limits.lowest() == 4_000
      # The limit does not bind: its file is read after a while.
      assert limits |> seen.(:host, "/m", 9_000, 9_999) |> Limits.lowest() == 1_000
      assert limits |> seen.(:host, "/m", 9_000, 10_000) |> Limits.lowest() == 500

      for file <- ["/b", "/c"] do
        limits =
          Limits.new() |> seen.(:cgroup_v2, file, 10, 0) |> seen.(:host, "/m", 9_000, 10_000)

        assert Limits.lowest(limits) == 9_000
      end

      # Limits without a file stay.
      limits = Limits.new() |> seen.(:rlimit_as, nil, 10, 0) |> seen.(:host, "/m", 9_000, 99_999)
      assert Limits.lowest(limits) == 10
    end
  end

  describe "Scan" do
    test "tells large workers once for each size, while there is time" do
      assert {large, []} = Scan.compare(%{}, %{a: 100, b: 100}, false)
      assert Scan.pending?(large)
      assert {large, told} = Scan.compare(large, %{a: 100, b: 100}, true)
      assert Enum.sort(told) == [:a, :b]
      refute Scan.pending?(large)
      assert {large, []} = Scan.compare(large, %{a: 120, b: 51}, true)
      assert {large, []} = Scan.compare(large, %{a: 121, b: 49}, false)
      assert {large, told} = Scan.compare(large, %{a: 121, b: 49}, true)
      assert Enum.sort(told) == [:a, :b]

      # A small worker has the default again, whether there is time or not; a worker never told has the
      # default.
      assert {%{b: 49}, [:a]} = Scan.compare(large, %{b: 49}, false)
      assert Scan.compare(%{c: nil}, %{}, true) == {%{}, []}
    end

    test "there is time where memory would last for two seconds" do
      assert Scan.time?(nil)
      assert Scan.time?(2_001)
      refute Scan.time?(2_000)
    end
  end
end
