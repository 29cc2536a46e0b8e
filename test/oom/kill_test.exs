defmodule OOM.KillTest do
  # The application's own parts run; the tests kill as the guard does.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Kill, Tree, Victims, Workers}
  alias OOM.Test.{SlowStart, UsedUp}
  alias OOM.Tree.Census

  defmodule Strict do
    @moduledoc false
    # Traps exits, and knows of no message.
    use GenServer

    def start_link(owner), do: GenServer.start_link(__MODULE__, owner)

    @impl true
    def init(owner) do
      Process.flag(:trap_exit, true)
      send(owner, {:started, :strict, self()})
      {:ok, owner}
    end

    @impl true
    def handle_info(:nothing_else, owner), do: {:noreply, owner}

    @impl true
    def terminate(reason, owner), do: send(owner, {:stopped, reason})
  end

  defp strict, do: %{id: :strict, start: {Strict, :start_link, [self()]}}

  defp plain do
    start = {UsedUp, :start_link, [Supervisor, [strict()], [strategy: :one_for_one]]}
    %{id: :plain, type: :supervisor, start: start}
  end

  # Otherwise the log would have a crash with a report of the state, or at least an error.
  test "a worker that traps exits leaves in order, by the order of its supervisor" do
    for child <- [strict(), plain()] do
      {top, _} = start(:short, [])
      {:ok, _} = Supervisor.start_child(top, child)
      pid = started(:strict)
      Census.walk()
      supervisor = elem(Workers.lookup(pid), 5)
      ref = Process.monitor(pid)

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          Kill.begin(pid, supervisor, 1, System.monotonic_time(:millisecond), 10_000)
          assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}, 5_000
          assert_received {:stopped, {:shutdown, :memory_pressure}}
          assert started(:strict) != pid
        end)

      refute log =~ "[error]"
    end
  end

  test "a worker that traps exits and has no supervisor is told, and ended after the grace" do
    test = self()

    pid =
      spawn(fn ->
        Process.flag(:trap_exit, true)
        send(test, :ready)
        receive(do: (message -> send(test, {:told, message})))
        receive(do: (:never -> :ok))
      end)

    assert_receive :ready
    ref = Process.monitor(pid)
    OOM.set_priority(pid, :low)
    Kill.begin(pid, nil, 1, System.monotonic_time(:millisecond), 10)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    assert_received {:told, {:EXIT, _, {:shutdown, :memory_pressure}}}
    eventually(fn -> not Workers.member?(pid) end)
  end

  test "a child that a plain supervisor is starting just now is spared, and the start succeeds" do
    {:ok, top} = OOM.Supervisor.start_link([DynamicSupervisor], strategy: :one_for_one)
    [{_, dynamic, _, _}] = Supervisor.which_children(top)
    Census.walk()

    {pid, _} = start = SlowStart.begin(dynamic)
    # A walk has registered no child of it yet.
    assert Tree.Start.under_way?(pid, dynamic)
    :ok = Workers.found(pid, 250, dynamic)
    Kill.begin(pid, dynamic, 1, System.monotonic_time(:millisecond), 10_000)
    eventually(fn -> Workers.rank(pid) == 250 and not Victims.marked?(pid) end)
    assert SlowStart.go_on(start) == {:ok, pid}
    refute Tree.Start.under_way?(pid, dynamic)
  end

  test "below the floor a worker that traps exits and works on gets no grace, one in its loop leaves in order" do
    {:ok, busy} =
      Task.start(fn ->
        Process.flag(:trap_exit, true)
        Enum.each(Stream.cycle([1]), & &1)
      end)

    OOM.set_priority(busy, :low)
    ref = Process.monitor(busy)
    Kill.begin(busy, nil, 1, System.monotonic_time(:millisecond), 600_000, true)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000

    {top, _} = start(:short, [])
    {:ok, strict} = Supervisor.start_child(top, strict())
    ref = Process.monitor(strict)
    Kill.begin(strict, top, 1, System.monotonic_time(:millisecond), 600_000, true)
    assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}, 5_000
  end
end
