defmodule OOM.OffHeapTest do
  use ExUnit.Case, async: true

  alias OOM.OffHeap

  @mib 1_048_576

  test "a long queue is read at once, with the binaries in its messages" do
    pid = idle()
    for n <- 1..200, do: send(pid, {n, :binary.copy(<<n>>, 16_384)})
    :erlang.garbage_collect()
    reading = OffHeap.read(pid, seen(pid), nil, true)
    assert_in_delta OffHeap.binary_bytes(reading), 200 * 16_384, 40_000
    assert reading.bytes in 1..@mib
  end

  test "a binary sent to many is divided among them" do
    pids = for _ <- 1..10, do: idle()
    for n <- 1..40, binary = :binary.copy(<<n>>, 100_000), pid <- pids, do: send(pid, binary)
    :erlang.garbage_collect()

    for pid <- pids do
      reading = OffHeap.read(pid, seen(pid), nil, true)
      assert_in_delta OffHeap.binary_bytes(reading), 400_000, 60_000
    end
  end

  test "few large messages are read once they stay" do
    pid = idle()
    for _ <- 1..4, do: send(pid, :lists.seq(1, 65_536))
    first = OffHeap.read(pid, seen(pid), nil, true)
    assert first.bytes == 0
    assert OffHeap.read(pid, seen(pid), first, true).bytes >= 4 * @mib
  end

  test "between two readings the number of messages tells" do
    pid = idle()
    for n <- 1..4_100, do: send(pid, {:message, n})
    first = OffHeap.read(pid, seen(pid), nil, true)
    for n <- 1..100, do: send(pid, {:message, n})
    next = OffHeap.read(pid, seen(pid), first, true)
    assert next.walk == first.walk
    assert_in_delta next.bytes, first.bytes * 4_200 / 4_100, 10
  end

  test "a queue that has gone weighs nothing, however long its walk took" do
    pid = idle()
    for n <- 1..100, do: send(pid, {n, :binary.copy(<<n>>, 100_000)})
    reading = OffHeap.read(pid, seen(pid), nil, true)
    reading = %{reading | walk: %{reading.walk | took_ms: 1_000}}
    send(pid, :drop)
    assert_receive {:dropped, ^pid}
    empty = OffHeap.read(pid, seen(pid), reading, true)
    assert empty.bytes < 10_000
    assert OffHeap.binary_bytes(empty) == 0
  end

  describe "monitors" do
    test "of a process that works hard are found" do
      pid = monitors(100_000)
      first = OffHeap.read(pid, seen(pid), nil, true)
      assert first.bytes == 0
      # Half of 128 bytes each; the other half counts at the other end.
      assert OffHeap.read(pid, seen(pid), first, true).bytes > 60 * 100_000
    end

    test "are not walked again at once where the walk took long" do
      pid = monitors(1_000)
      first = OffHeap.read(pid, seen(pid), %OffHeap{}, true)
      walk = %{first.walk | took_ms: 100, bytes_per_reduction: 2.0}
      seen = %{seen(pid) | reductions: walk.reductions + 200_000, at_ms: walk.at_ms + 99_999}
      estimated = OffHeap.read(pid, seen, %{first | walk: walk}, true)
      assert estimated.bytes == walk.bytes + 400_000

      later =
        OffHeap.read(pid, %{seen | at_ms: walk.at_ms + 100_000}, %{first | walk: walk}, true)

      assert later.bytes < 200_000
    end

    test "are none where a heap grows and shrinks beneath the look" do
      pid = spawn_link(fn -> build_and_drop() end)
      walks = for _ <- 1..300, do: OffHeap.read(pid, %{seen(pid) | queue: 32}, nil, true).bytes
      Process.unlink(pid)
      Process.exit(pid, :kill)
      assert Enum.max(walks) < 20_000
    end

    test "of a process that is no candidate are not walked" do
      pid = monitors(1_000)
      assert OffHeap.read(pid, seen(pid), %OffHeap{}, false).bytes == 0
    end
  end

  test "a process that has ended keeps its last reading" do
    pid = idle()
    Process.exit(pid, :kill)
    seen = %{queue: 100, reductions: 1, at_ms: 0}
    assert OffHeap.read(pid, seen, nil, true).bytes == 0
  end

  defp seen(pid) do
    [{_, queue}, {_, reductions}] = :erlang.process_info(pid, [:message_queue_len, :reductions])

    %{queue: queue, reductions: reductions, at_ms: System.monotonic_time(:millisecond)}
  end

  defp build_and_drop do
    _ = Enum.to_list(1..100_000)
    build_and_drop()
  end

  # Reads no message but `:drop`.
  defp idle do
    test = self()

    start_supervised!(
      {Task,
       fn ->
         Process.flag(:message_queue_data, :off_heap)
         send(test, :ready)
         receive(do: (:drop -> :ok))
         drop()
         send(test, {:dropped, self()})
         Process.sleep(:infinity)
       end},
      id: make_ref()
    )
    |> tap(fn _ -> assert_receive :ready end)
  end

  defp drop do
    receive do
      _ -> drop()
    after
      0 -> :ok
    end
  end

  defp monitors(count) do
    test = self()

    start_supervised!(
      {Task,
       fn ->
         for _ <- 1..count, do: Process.monitor(test)
         # As much work as to set up many.
         Enum.each(1..200_000, &Integer.to_string/1)
         :erlang.garbage_collect()
         send(test, :ready)
         Process.sleep(:infinity)
       end},
      id: make_ref()
    )
    |> tap(fn _ -> assert_receive :ready, 5_000 end)
  end
end
