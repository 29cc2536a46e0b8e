defmodule OOM.OwnedTest do
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Kill, Owned, Workers}

  describe "tables" do
    test "count for the worker that owns them" do
      pid = worker(fn -> :ets.insert(:ets.new(:big, []), {1, Enum.to_list(1..10_000)}) end)
      Owned.read(:tables)
      assert_in_delta Owned.bytes(pid), 160_000, 5_000
    end

    test "of processes nobody registered count for nobody" do
      {:ok, pid} = Agent.start_link(fn -> :ets.new(:other, []) end)
      Owned.read(:tables)
      assert Owned.bytes(pid) == 0
    end

    test "of a process that a worker started count for the worker" do
      test = self()

      pid =
        worker(fn ->
          spawn_link(fn ->
            :ets.insert(:ets.new(:helper, []), {1, Enum.to_list(1..10_000)})
            send(test, :filled)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :filled
      Owned.read(:tables)
      assert_in_delta Owned.bytes(pid, :tables), 160_000, 5_000
    end

    test "count with the binaries in their rows, without a new sample at each reading" do
      pid = worker(fn -> :ets.new(:table, [:public]) end)
      table = Agent.get(pid, & &1)
      for n <- 1..500, do: :ets.insert(table, {n, :binary.copy(<<n>>, 10_000)})
      :erlang.garbage_collect()
      Owned.read(:tables)
      assert_in_delta Owned.bytes(pid), 5_000_000, 500_000

      # A tenth more rows count like the others.
      for n <- 501..550, do: :ets.insert(table, {n, 0})
      Owned.read(:tables)
      assert_in_delta Owned.bytes(pid), 5_500_000, 500_000

      # After a change by a quarter the rows are sampled again.
      for n <- 1..500, do: :ets.delete(table, n)
      Owned.read(:tables)
      assert_in_delta Owned.bytes(pid), 0, 100_000
    end

    test "with private rows count without the binaries in them" do
      pid =
        worker(fn ->
          table = :ets.new(:table, [:private])
          for n <- 1..100, do: :ets.insert(table, {n, :binary.copy(<<n>>, 10_000)})
        end)

      Owned.read(:tables)
      assert Owned.bytes(pid) in 1..100_000
    end

    test "count no more when they are gone" do
      pid = worker(fn -> :ets.new(:table, [:public]) end)
      Owned.read(:tables)
      assert Owned.bytes(pid) > 0
      Agent.update(pid, &:ets.delete/1)
      Owned.read(:tables)
      assert Owned.bytes(pid) == 0
    end
  end

  describe "ports" do
    test "with output that waits count for their owner, and are killed with it" do
      # A worker trapping exits does not end before the kill of its port.
      pid =
        worker(fn ->
          Process.flag(:trap_exit, true)
          unread_port()
        end)

      port = Agent.get(pid, & &1)

      # The port takes the command in its own time.
      eventually(fn ->
        Owned.read(:ports)
        abs(Owned.bytes(pid) - 1_000_000) < 100_000
      end)

      assert Owned.ports(pid) == [port]

      # Without a kill the port would wait until its output is written.
      Kill.run(pid, nil, 100)
      eventually(fn -> Port.info(port) == nil end)
    end

    test "that are sockets drop their waiting output with their owner, whoever ends first" do
      for kill <- [&Kill.run(&1, nil, 100), &ended_before_its_ports/1] do
        {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, recbuf: 4_096])
        {:ok, number} = :inet.port(listener)
        pid = worker(fn -> unread_socket(number) end)
        {:ok, unread} = :gen_tcp.accept(listener)
        socket = Agent.get(pid, & &1)
        Owned.read(:ports)
        assert Owned.ports(pid) == [socket]

        kill.(pid)
        eventually(fn -> Port.info(socket) == nil end)
        for open <- [unread, listener], do: :gen_tcp.close(open)
      end
    end

    test "that have nothing to write do not" do
      pid = worker(fn -> Port.open({:spawn, "cat"}, [:binary]) end)
      Owned.read(:ports)
      assert Owned.bytes(pid) == 0
      assert Owned.ports(pid) == []
    end
  end

  describe "processes nobody registered" do
    test "count for the worker that started them, and theirs too" do
      pid =
        worker(fn ->
          for _ <- 1..200, do: spawn_link(&hold/0)

          spawn_link(fn ->
            spawn_link(&hold/0)
            Process.sleep(:infinity)
          end)
        end)

      eventually(fn ->
        Owned.read(:children)
        # 201 lists of 1,000 elements, and a process without a list.
        Owned.bytes(pid) > 201 * 16_000 and Owned.bytes(pid) < 201 * 60_000
      end)
    end

    test "count with a long mailbox and the binaries in it" do
      pid = worker(fn -> spawn_link(fn -> Process.sleep(:infinity) end) end)
      helper = Agent.get(pid, & &1)
      for n <- 1..100, do: send(helper, {n, :binary.copy(<<n>>, 10_000)})
      :erlang.garbage_collect()
      Owned.read(:children)
      assert_in_delta Owned.bytes(pid), 1_000_000, 100_000
    end

    test "that are registered count for themselves" do
      pid = worker(fn -> spawn_link(&hold/0) end)
      child = Agent.get(pid, & &1)
      :ok = Workers.declare(child, 500)
      Owned.read(:children)
      assert Owned.bytes(pid) == 0
      assert Owned.bytes(child) == 0
    end

    test "of a process that is no worker count for nobody" do
      pid = worker(fn -> nil end)
      spawn_link(&hold/0)
      Owned.read(:children)
      assert Owned.bytes(pid) == 0
    end
  end

  test "a reading takes a bounded share of the time" do
    assert Owned.due?(nil, 0, :normal)
    refute Owned.due?({0, 100}, 499, :normal)
    assert Owned.due?({0, 100}, 500, :normal)
    refute Owned.due?({0, 100}, 199, :critical)
    assert Owned.due?({0, 100}, 200, :critical)
    assert Owned.due?({0, 0}, 0, :normal)
  end

  test "a reading ends quietly where the tables go away" do
    stop_supervised!(OOM.Tables)
    for kind <- Owned.kinds(), do: assert(Owned.read(kind) == :ok)
  end

  defp worker(fun) do
    pid = start_supervised!({Agent, fun}, id: make_ref(), restart: :temporary)
    :ok = Workers.declare(pid, 500)
    pid
  end

  # The rest of a kill where the worker ends first.
  defp ended_before_its_ports(pid) do
    :ok = Owned.Ports.drop_at_end(Owned.ports(pid))
    ref = Process.monitor(pid)
    Process.exit(pid, {:shutdown, :memory_pressure})
    assert_receive {:DOWN, ^ref, _, _, _}
  end

  # To a peer that reads nothing.
  defp unread_socket(number) do
    options = [:binary, active: false, sndbuf: 4_096]
    {:ok, socket} = :gen_tcp.connect(~c"127.0.0.1", number, options)
    # Data in the kernel's buffers does not wait.
    :ok = :gen_tcp.send(socket, :binary.copy(<<1>>, 16_000_000))
    socket
  end

  # A program that reads nothing.
  defp unread_port do
    port =
      Port.open({:spawn_executable, System.find_executable("sleep")}, [
        :binary,
        args: ["60"],
        busy_limits_port: :disabled,
        busy_limits_msgq: :disabled
      ])

    # Data in the pipe (64 KiB) does not wait.
    Port.command(port, :binary.copy(<<1>>, 1_000_000 + 65_536))
    port
  end

  defp hold do
    list = :lists.seq(1, 1_000)
    Process.sleep(:infinity)
    list
  end
end
