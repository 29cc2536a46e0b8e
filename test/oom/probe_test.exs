defmodule OOM.ProbeTest do
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Probe, Workers}

  @mib 1_048_576

  test "tells the heap, the mailbox and the binaries of a worker" do
    heap = worker(fn -> Enum.to_list(1..100_000) end)
    binaries = worker(fn -> for n <- 1..100, do: :binary.copy(<<n>>, 100_000) end)
    assert bytes(heap) >= 1_600_000
    assert bytes(binaries) >= 10_000_000

    flooded = worker(fn -> nil end)
    :erlang.suspend_process(flooded)
    for _ <- 1..1_000, do: send(flooded, Enum.to_list(1..100))
    assert bytes(flooded) >= 1_600_000
  end

  test "sees a binary that grows by appending, and goes on to when it rests" do
    pid = worker(fn -> <<>> end)
    # The first look has nothing to compare with.
    look(pid)

    for _ <- 1..64 do
      Agent.update(pid, fn held -> <<held::binary, :binary.copy(<<1>>, @mib)::binary>> end)
    end

    assert look(pid) >= 64 * @mib
    assert look(pid) >= 64 * @mib
    Agent.update(pid, fn _ -> for _ <- 1..1_000, do: <<>> end)
    :erlang.garbage_collect(pid)
    work(pid)
    assert look(pid) < @mib
  end

  test "tells the largest step of a worker at the binary" do
    pid = worker(fn -> <<>> end)
    look(pid)
    Agent.update(pid, &append(&1, 500))
    look(pid)
    assert OOM.Steps.bytes_of(pid) >= 30 * @mib

    # Appends fill the room that the last step made, and the size stands still. The worker may sleep in between.
    step = OOM.Steps.bytes_of(pid)
    now = System.monotonic_time(:millisecond)
    work(pid)
    look(pid, now + 400)
    assert OOM.Steps.bytes_of(pid) == step
    # The binary stays the same until its growth has faded.
    for ms <- [5_000, 10_000], do: work(pid) && look(pid, now + ms)
    assert OOM.Steps.bytes_of(pid) == 0
  end

  test "tells that the next collection of a growing heap copies the live heap" do
    pid = worker(fn -> [] end)
    look(pid)
    Agent.update(pid, &grow/1)
    look(pid)
    assert OOM.Steps.bytes_of(pid) == next_collection(pid)
    # The heap grows no more. A worker may sleep between its steps.
    now = System.monotonic_time(:millisecond)
    look(pid, now + 400)
    assert OOM.Steps.bytes_of(pid) == next_collection(pid)
    look(pid, now + 1_000)
    assert OOM.Steps.bytes_of(pid) == 0
  end

  test "tells the same of a suspended worker: it goes on where it was" do
    pid = worker(fn -> [] end)
    look(pid)
    Agent.update(pid, &grow/1)
    look(pid)
    :erlang.suspend_process(pid)
    look(pid)
    assert OOM.Steps.bytes_of(pid) == next_collection(pid)
    :erlang.resume_process(pid)
  end

  test "tells the same of a worker that has grown before it was suspended" do
    pid = worker(fn -> [] end)
    look(pid)
    # The worker rests.
    look(pid)
    assert OOM.Steps.bytes_of(pid) == 0
    Agent.update(pid, &grow/1)
    :erlang.suspend_process(pid)
    look(pid)
    assert OOM.Steps.bytes_of(pid) == next_collection(pid)
    :erlang.resume_process(pid)
  end

  # After a collection of everything the next one copies everything, on each release.
  defp grow(held) do
    held = [Enum.to_list(1..500_000) | held]
    :erlang.garbage_collect()
    held
  end

  defp next_collection(pid) do
    {_, info} = Process.info(pid, :garbage_collection_info)
    bytes = OOM.HeapStep.bytes(info)
    assert bytes >= 500_000 * 16
    bytes
  end

  test "the first look shows the whole size as growth for a worker started in this episode" do
    pid = worker(fn -> :binary.copy(<<1>>, @mib) end)
    # A later look would find a part of the growth faded.
    at = System.monotonic_time(:millisecond)
    :ok = Workers.attach(pid, 500, self(), :id, [])
    held = look(pid, at)
    assert shown?(pid)
    # All but the free rest of the block.
    assert grown(pid) in @mib..held
  end

  test "a heap that takes more of its block is shown to grow; its figure is the block" do
    pid = :erlang.spawn_opt(fn -> filler([]) end, min_heap_size: 1_000_000)
    on_exit(fn -> Process.exit(pid, :kill) end)
    :ok = Workers.declare(pid, 250)
    at = System.monotonic_time(:millisecond)
    held = look(pid, at)
    send(pid, {:fill, self(), 100_000})
    assert_receive :filled
    assert look(pid, at + 1) == held
    assert grown(pid) >= 100_000 * 16
  end

  test "two close looks show growth, and the first look at a worker started earlier shows none" do
    pid = worker(fn -> [] end)
    at = System.monotonic_time(:millisecond)
    {close, fresh} = {OOM.Limits.shown_ms(), OOM.Limits.fresh_ms()}
    Workers.worked(pid, {:born, at - fresh - 1, OOM.Level.episode()})
    OOM.Level.next_episode()
    first = look(pid, at)
    refute shown?(pid)
    assert grown(pid) == 0
    Agent.update(pid, fn _ -> :binary.copy(<<1>>, @mib) end)
    more = look(pid, at + close) - first
    assert shown?(pid)
    assert grown(pid) == more
    assert more >= @mib
    OOM.Level.next_episode()
    refute shown?(pid)
    # Memory found long after the last look may be older than the growth.
    Agent.update(pid, fn held -> [held, :binary.copy(<<1>>, @mib)] end)
    look(pid, at + close + fresh + 1)
    refute shown?(pid)
    assert grown(pid) == 0
  end

  test "the growth of a worker that rests fades, also where it is stopped with a message to read" do
    pid = worker(fn -> [] end)
    at = System.monotonic_time(:millisecond)
    first = look(pid, at)
    Agent.update(pid, fn _ -> :binary.copy(<<1>>, 8 * @mib) end)
    more = look(pid, at + 10) - first
    assert grown(pid) == more
    # The worker does next to nothing, as each message costs.
    for _ <- 1..3, do: Agent.get(pid, fn _ -> nil end)
    :erlang.suspend_process(pid)
    send(pid, :any)
    # The throttle holds the worker between two such looks.
    look(pid, at + 50)
    assert grown(pid) >= more
    :erlang.resume_process(pid)
    for _ <- 1..3, do: Agent.get(pid, fn _ -> nil end)
    :erlang.suspend_process(pid)
    send(pid, :any)
    look(pid, at + 1_500)
    assert grown(pid) < div(more, 50)
    :erlang.resume_process(pid)
  end

  test "tells a worker that waits for a message, and of a suspended one what it did before" do
    pid = worker(fn -> nil end)
    look(pid)
    assert waits?(pid)
    :erlang.suspend_process(pid)
    look(pid)
    assert waits?(pid)
    :erlang.resume_process(pid)

    busy = spawn_link(fn -> spin() end)
    :ok = Workers.declare(busy, 500)
    look(busy)
    refute waits?(busy)
    :erlang.suspend_process(busy)
    look(busy)
    refute waits?(busy)
    Process.unlink(busy)
    Process.exit(busy, :kill)
  end

  test "a suspended worker that waits for a connection, for an answer or for a task waits" do
    {:ok, socket} = :gen_tcp.listen(0, active: false)
    {:ok, port} = :inet.port(socket)
    silent = worker(fn -> nil end)
    :erlang.suspend_process(silent)

    waits = [
      fn -> :gen_tcp.accept(socket) end,
      fn ->
        with(
          {:ok, peer} <- :gen_tcp.connect(~c"localhost", port, active: false),
          do: :gen_tcp.recv(peer, 1)
        )
      end,
      fn -> Agent.get(silent, & &1, :infinity) end,
      fn -> Task.await(Task.async(fn -> Process.sleep(:infinity) end), :infinity) end
    ]

    for wait <- waits do
      {:ok, pid} = Task.start(wait)
      :ok = Workers.declare(pid, 500)
      eventually(fn -> Process.info(pid, :status) == {:status, :waiting} end)

      eventually(fn ->
        :erlang.suspend_process(pid)
        look(pid)
        :erlang.resume_process(pid)
        waits?(pid)
      end)

      Process.exit(pid, :kill)
    end

    :erlang.resume_process(silent)
  end

  test "counts a mailbox on the heap twice more: for its copy, and for messages meanwhile" do
    for {where, steps} <- [on_heap: 2, off_heap: 0] do
      pid = worker(fn -> Process.flag(:message_queue_data, where) end)
      :erlang.suspend_process(pid)
      for _ <- 1..2_000, do: send(pid, Enum.to_list(1..100))
      held = look(pid)
      assert held >= 3_200_000
      assert_in_delta OOM.Steps.bytes_of(pid), steps * held, 50_000
      :erlang.resume_process(pid)
      OOM.Steps.delete(pid)
    end
  end

  test "divides a shared binary among its holders" do
    shared = :binary.copy(<<1>>, 10 * @mib)
    pids = for _ <- 1..10, do: worker(fn -> <<>> end)
    for pid <- pids, do: look(pid)

    for pid <- pids do
      # As with an appended binary: unknown to the virtual heap.
      Agent.update(pid, fn _ -> shared end)
      work(pid)
    end

    assert byte_size(shared) == 10 * @mib
    for pid <- pids, do: assert(look(pid) < 11 * @mib)
  end

  test "tells a worker that works hard from a worker that rests" do
    pid = worker(fn -> nil end)
    look(pid)
    Agent.update(pid, fn _ -> Enum.each(1..100_000, &Integer.to_string/1) end)
    :erlang.garbage_collect(pid)
    look(pid)
    assert {_, _, _, _, :busy, _, _, _, _} = Workers.lookup(pid)
    # The worker rests, but may have been suspended.
    look(pid)
    assert {_, _, _, _, :busy, _, _, _, {reductions, at_ms, found}} = Workers.lookup(pid)
    # As if half a second had passed.
    past = %{found | hard_ms: found.hard_ms - 500}
    Workers.worked(pid, {reductions, at_ms - 500, past})
    look(pid)
    assert {_, _, _, _, :fresh, _, _, _, _} = Workers.lookup(pid)
  end

  test "of an ended worker tells nothing" do
    pid = worker(fn -> nil end)
    stop_supervised!(pid_id(pid))
    assert bytes(pid) == nil
  end

  @piece :binary.copy(<<1>>, 65_536)
  defp append(binary, 0), do: binary
  defp append(binary, n), do: append(<<binary::binary, @piece::binary>>, n - 1)

  defp spin, do: spin()

  defp waits?(pid), do: elem(elem(Workers.lookup(pid), 8), 2).waits?

  defp bytes(pid), do: Probe.bytes(pid)

  defp look(pid) do
    {pids, cursor} = Probe.chunk([pid])
    Probe.run(pids, cursor, :atomics.new(1, []))
    {_, _, bytes, _, _, _, _, _, _} = Workers.lookup(pid)
    bytes
  end

  defp look(pid, at_ms) do
    :ok = Probe.sample(pid, at_ms)
    {_, _, bytes, _, _, _, _, _, _} = Workers.lookup(pid)
    bytes
  end

  defp shown?(pid), do: OOM.Evidence.shown?(Workers.lookup(pid), OOM.Level.episode())

  defp filler(kept) do
    receive do
      {:fill, from, count} ->
        kept = [Enum.to_list(1..count) | kept]
        send(from, :filled)
        filler(kept)
    end
  end

  defp grown(pid), do: OOM.Evidence.grown_bytes(Workers.lookup(pid))

  defp work(pid), do: Agent.get(pid, fn _ -> Enum.each(1..1_000, &Integer.to_string/1) end)

  defp worker(fun) do
    id = make_ref()
    pid = start_supervised!({Agent, fun}, id: id, restart: :temporary)
    Process.put({:id, pid}, id)
    :ok = Workers.declare(pid, 500)
    pid
  end

  defp pid_id(pid), do: Process.get({:id, pid})
end
