defmodule OOM.LeftoversTest do
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Kill, Leftovers, Workers}
  alias OOM.Tree.Census

  defmodule Busy do
    @moduledoc false
    # Traps exits, and hears nothing.
    def start_link(test) do
      :proc_lib.start_link(__MODULE__, :init, [test])
    end

    def init(test) do
      Process.flag(:trap_exit, true)
      send(test, {:busy, self()})
      :proc_lib.init_ack({:ok, self()})
      receive(do: (:never -> :ok))
    end
  end

  defmodule Owner do
    @moduledoc false
    # Starts a supervisor of its own, which waits half a minute for the child's end.
    use GenServer

    def start_link(test), do: GenServer.start_link(__MODULE__, test)

    @impl true
    def init(test) do
      Process.flag(:trap_exit, true)
      busy = %{id: :busy, start: {Busy, :start_link, [test]}, shutdown: 30_000}
      {:ok, _} = Supervisor.start_link([busy], strategy: :one_for_one)
      {:ok, nil}
    end
  end

  defp owner(options) do
    spec = %{id: :owner, start: {Owner, :start_link, [self()]}, type: :supervisor}

    spec =
      if options[:unit], do: OOM.child_spec(spec, options), else: Map.put(spec, :type, :worker)

    {top, _} = start(:long, [])
    {:ok, owner} = Supervisor.start_child(top, spec)
    assert_receive {:busy, busy}
    Census.walk()
    {top, owner, busy}
  end

  for options <- [[], [unit: true]] do
    test "what a victim has started ends after the grace: #{inspect(options)}" do
      {top, owner, busy} = owner(unquote(options))
      ref = Process.monitor(busy)
      Kill.begin(owner, top, 1, System.monotonic_time(:millisecond), 50)
      assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
      refute Process.alive?(owner)
    end
  end

  test "a process worth more than the victim stays, and so does a process of another parent" do
    test = self()

    victim =
      spawn(fn ->
        own = spawn(fn -> receive(do: (:never -> :ok)) end)
        high = spawn(fn -> receive(do: (:never -> :ok)) end)
        send(test, {:started, own, high})
        receive(do: (:never -> :ok))
      end)

    assert_receive {:started, own, high}
    OOM.set_priority(victim, :low)
    OOM.set_priority(high, :high)
    other = spawn(fn -> receive(do: (:never -> :ok)) end)
    ref = Process.monitor(own)
    Kill.begin(victim, nil, 1, System.monotonic_time(:millisecond), 10)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    # The look that ended the first process has passed the other two.
    assert Process.alive?(high) and Process.alive?(other)
    for pid <- [high, other], do: Process.exit(pid, :kill)
  end

  test "nobody waits for this process, and nothing is lost without it" do
    pid = Process.whereis(Leftovers)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, _}
    assert Leftovers.watch(self(), 0, 0) == :ok
    eventually(fn -> Process.whereis(Leftovers) not in [nil, pid] end)
    refute Workers.member?(self())
  end
end
