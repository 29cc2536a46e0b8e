defmodule OOM.Tree.PoolTest do
  # The application's own parts run; the guard is idle, and the tests kill as the guard does.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually
  import OOM.Test.HeldTree, only: [start: 3]

  alias OOM.{Kill, Owned, Priority, Victims, Workers}
  alias OOM.Tree.Census

  defmodule Member do
    @moduledoc false
    use GenServer
    def start_link(arg), do: GenServer.start_link(__MODULE__, arg)
    @impl true
    def init(arg), do: {:ok, arg}
  end

  defmodule Pool do
    @moduledoc false
    use GenServer

    def child_spec(options), do: %{id: :pool, start: {__MODULE__, :start_link, [options]}}
    def start_link(options), do: GenServer.start_link(__MODULE__, Map.new(options))
    def members(pool), do: GenServer.call(pool, :members)

    @impl true
    def init(options) do
      Process.flag(:trap_exit, Map.get(options, :traps?, true))
      send(options.test, {:pool, self()})
      {:ok, Map.put(options, :members, for(_ <- 1..options.size, do: member()))}
    end

    @impl true
    def handle_call(:members, _from, state), do: {:reply, state.members, state}

    @impl true
    def handle_info({:EXIT, pid, reason}, state) do
      if Map.get(state, :stops?, false),
        do: {:stop, reason, state},
        else: {:noreply, %{state | members: [member() | state.members -- [pid]]}}
    end

    defp member do
      {:ok, pid} = Member.start_link(nil)
      pid
    end
  end

  defp pool(options, spec \\ []) do
    child = OOM.child_spec({Pool, [test: self()] ++ options}, [priority: :low] ++ spec)
    {top, _none} = start(:short, [], [])
    {:ok, pool} = OOM.Supervisor.start_child(top, child)
    assert_receive {:pool, ^pool}
    Census.walk()
    {top, pool, Pool.members(pool)}
  end

  defp end_one(pid) do
    row = Workers.lookup(pid)
    Victims.mark(pid, System.monotonic_time(:millisecond), 1)
    Workers.delete(pid)
    ref = Process.monitor(pid)
    :ok = Kill.run(pid, elem(row, 5), 1_000)
    assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}
  end

  defp low, do: Priority.rank!(:low)

  test "each process of a pool is a worker with the pool's rank, ended alone and replaced" do
    {_top, pool, [a | _] = members} = pool(size: 3)
    for pid <- members, do: assert(Workers.rank(pid) == low())
    assert Workers.rank(pool) == low()
    end_one(a)

    new =
      eventually(fn ->
        Enum.find(Pool.members(pool), &(&1 not in members))
      end)

    Census.walk()
    assert Workers.rank(new) == low()
    assert Enum.all?(tl(members), &Process.alive?/1)
    assert OOM.held() == []
  end

  test "the memory of a pool's processes is not the pool's, and shows beside the pool in OOM.tree/1" do
    {top, pool, _members} = pool(size: 3)
    OOM.Accountant.pass()
    assert Owned.bytes(pool, :children) == 0
    assert %{workers_count: 4} = Enum.find(OOM.tree(10), &(&1.pid == top))
  end

  test "a single process counts for the worker, until a second one of its module runs beside" do
    {_top, pool, [a]} = pool(size: 1)
    refute Workers.member?(a)
    Census.walk()
    refute Workers.member?(a)
    # In place of the first, and alone again.
    Process.exit(a, :kill)
    b = eventually(fn -> (pid = hd(Pool.members(pool))) != a && pid end)
    Census.walk()
    refute Workers.member?(b)
  end

  test "a worker that does not trap exits, or is a unit, keeps no pool" do
    for {options, spec} <- [{[traps?: false], []}, {[], [unit: true]}] do
      {_top, _pool, members} = pool([size: 2] ++ options, spec)
      refute Enum.any?(members, &Workers.member?/1)
    end
  end

  test "a pool that ends with its process is held, and comes back" do
    {top, pool, [a, _]} = pool(size: 2, stops?: true)
    ExUnit.CaptureLog.capture_log(fn -> end_one(a) end)
    assert_receive {:pool, new}, 5_000
    assert new != pool
    assert [{:pool, ^new, _, _}] = OOM.Supervisor.which_children(top)
  end
end
