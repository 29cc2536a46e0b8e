defmodule OOM.OddChildrenTest do
  # Children that contradict their specification, or do something unexpected.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Accountant, Asker, Tables, Tree, Workers}
  alias OOM.Test.Trees.{OfOOM, OfSupervisor}
  alias OOM.Tree.Census

  @flags %{strategy: :one_for_one, intensity: 3, period: 5}

  # The pid of an unknown node.
  defp remote, do: :erlang.binary_to_term(<<131, 88, 119, 3, "a@b", 55::32, 0::32, 1::32>>)

  defp returns(id, result, type),
    do: %{id: id, type: type, start: {Kernel, :apply, [fn -> result end, []]}}

  defp walk_and_pass do
    log =
      ExUnit.CaptureLog.capture_log(fn ->
        Census.walk()
        Accountant.pass()
      end)

    refute log =~ "[error]"
  end

  describe "a start that returns" do
    test "a process of another node: nobody watches or kills the process" do
      {top, %{a: a}} = start(:short, [:a])

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          for {type, id} <- [worker: :w, supervisor: :s] do
            spec = OOM.child_spec(returns(id, {:ok, remote()}, type), unit: id == :s)
            assert {:ok, _} = Supervisor.start_child(top, spec)

            assert {:ok, _, :info} =
                     Supervisor.start_child(top, returns({id, 2}, {:ok, remote(), :info}, type))
          end

          refute Workers.member?(remote())
          refute Tree.kind(remote())
          Census.walk()
          Accountant.pass()
        end)

      refute log =~ "[error]"
      # The rest are found and looked at as ever.
      assert {_, _, bytes, _, :fresh, _, _, _, _} = Workers.lookup(a)
      assert bytes > 0
    end

    test "its own supervisor, a dead process, or a child of another supervisor" do
      {top, %{a: a}} = start(:short, [:a])
      {:ok, dead} = Agent.start(fn -> nil end)
      Agent.stop(dead)

      own = %{
        id: :own,
        start: {Kernel, :apply, [fn -> {:ok, self()} end, []]},
        restart: :temporary,
        shutdown: 1
      }

      assert {:ok, ^top} = Supervisor.start_child(top, own)
      assert {:ok, ^dead} = Supervisor.start_child(top, returns(:dead, {:ok, dead}, :worker))
      assert {:ok, ^a} = Supervisor.start_child(top, returns(:shared, {:ok, a}, :worker))
      refute Workers.member?(top)
      assert Tree.kind(top) == :oom
      eventually(fn -> not Workers.member?(dead) end)
      walk_and_pass()
    end
  end

  describe "a supervisor whose specification calls it a worker" do
    test "an OOM.Supervisor is no worker, and its options hold for everything below" do
      {top, _} = start(:short, [])
      b = worker(:b)
      init = fn -> {:ok, {@flags, [b]}} end

      for {id, start} <- [
            a: {OOM.Supervisor, :start_link, [[worker(:a)], [strategy: :one_for_one]]},
            b: {OfOOM, :start_link, [init]}
          ] do
        spec = OOM.child_spec(%{id: id, start: start}, priority: :low)
        {:ok, supervisor} = Supervisor.start_child(top, spec)
        refute Workers.member?(supervisor)
        assert Tree.kind(supervisor) == :oom
        worker = started(id)
        assert {_, 250, _, _, _, ^supervisor, ^id, _, _} = Workers.lookup(worker)
        walk_and_pass()
        refute Workers.member?(supervisor)
        assert OOM.Owned.bytes(supervisor) == 0
      end
    end

    test "any other neither, nor has it a cap, before it has a child" do
      {top, _} = start(:short, [], oom: [max_heap_size: 100_000_000])

      for spec <- [
            %{id: :plain, start: {Supervisor, :start_link, [[], [strategy: :one_for_one]]}},
            %{id: :dynamic, start: {DynamicSupervisor, :start_link, [[strategy: :one_for_one]]}},
            %{id: :tasks, start: {Task.Supervisor, :start_link, []}},
            %{id: :module, start: {OfSupervisor, :start_link, [fn -> {:ok, {@flags, []}} end]}}
          ] do
        {:ok, supervisor} = Supervisor.start_child(top, OOM.child_spec(spec, priority: :low))
        eventually(fn -> Tree.kind(supervisor) == :supervisor end)
        eventually(fn -> not Workers.member?(supervisor) end)
        assert Tree.options(supervisor)[:priority] == 250
        :sys.get_state(supervisor)
        assert {:max_heap_size, %{size: 0}} = :erlang.process_info(supervisor, :max_heap_size)
        walk_and_pass()
        refute Workers.member?(supervisor)
      end
    end

    test "a supervisor specified as a unit is a unit" do
      {top, _} = start(:short, [])
      start = {Supervisor, :start_link, [[worker(:a)], [strategy: :one_for_one]]}
      spec = OOM.child_spec(%{id: :u, start: start}, unit: true)
      {:ok, unit} = Supervisor.start_child(top, spec)
      a = started(:a)
      walk_and_pass()
      assert Tree.kind(unit) == :unit
      assert Workers.member?(unit)
      refute Workers.member?(a)
    end
  end

  describe "set_priority of a supervisor" do
    test "in its init/1 holds for everything below" do
      {top, _} = start(:short, [])

      for {module, id} <- [{OfSupervisor, :a}, {OfOOM, :b}] do
        child = worker(id)

        init = fn ->
          OOM.set_priority(:low)
          {:ok, {@flags, [child]}}
        end

        start = {module, :start_link, [init]}

        {:ok, supervisor} =
          Supervisor.start_child(top, %{id: id, type: :supervisor, start: start})

        worker = started(id)
        walk_and_pass()
        refute Workers.member?(supervisor)
        assert Workers.rank(worker) == 250
      end
    end

    test "from outside is refused" do
      {top, _} = start(:short, [])
      plain = start_supervised!({DynamicSupervisor, strategy: :one_for_one})

      for supervisor <- [top, plain] do
        assert_raise ArgumentError, ~r/expected a worker, got the supervisor #PID/, fn ->
          OOM.set_priority(supervisor, :low)
        end

        refute Workers.member?(supervisor)
      end
    end
  end

  describe "a child that ends at a bad moment" do
    test "a supervisor that is killed while it starts a child leaves nothing behind" do
      test = self()
      {top, _} = start(:short, [])

      slow = fn ->
        send(test, {:starting, self()})
        receive(do: (:never -> :ignore))
      end

      spec = %{id: :slow, start: {Kernel, :apply, [slow, []]}}
      spawn(fn -> Supervisor.start_child(top, spec) end)
      assert_receive {:starting, ^top}
      assert :ets.member(Tree, {:starting, top})
      ref = Process.monitor(top)
      Process.exit(top, :kill)
      assert_receive {:DOWN, ^ref, _, _, _}
      Census.walk()
      refute :ets.member(Tree, {:starting, top})
    end

    test "an ended worker is not asked to shrink for ever" do
      pid = spawn(fn -> :ok end)
      ref = Process.monitor(pid)
      assert_receive {:DOWN, ^ref, _, _, _}
      Asker.listens(pid, true)
      refute :ets.member(Asker, pid)
    end

    test "the application ends while a child starts: the child runs once" do
      test = self()
      {top, _} = start(:short, [])

      start = fn ->
        send(test, :start)
        :ok = Application.stop(:oom)
        Agent.start_link(fn -> nil end)
      end

      on_exit(fn -> {:ok, _} = Application.ensure_all_started(:oom) end)
      spec = %{id: :late, start: {Kernel, :apply, [start, []]}}
      assert {:ok, late} = Supervisor.start_child(top, spec)

      assert [{:late, ^late, _, _}] = Supervisor.which_children(top)
      assert_received :start
      refute_received :start
      assert Tables.config() == nil
    end
  end

  # An older VM copies the whole dictionary to read a single key.
  test "a cache in a worker's dictionary is not copied to find out the kind of the worker" do
    big = fn ->
      Process.put(:cache, :lists.seq(1, 5_000_000)) && Process.flag(:trap_exit, true)
    end

    {top, _} = start(:short, [])
    {:ok, dynamic} = Supervisor.start_child(top, {DynamicSupervisor, strategy: :one_for_one})
    {:ok, worker} = DynamicSupervisor.start_child(dynamic, {Agent, big})
    asks = fn -> exit({:asked, OOM.InitialCall.of(worker)}) end
    cap = %{size: 1_000_000, kill: true, error_logger: false}
    {_, ref} = :erlang.spawn_opt(asks, [:monitor, max_heap_size: cap])
    assert_receive {:DOWN, ^ref, _, _, {:asked, _}}, 5_000
    walk_and_pass()
    assert Workers.member?(worker)
    assert OOM.Heap.cap(worker, 1_000_000_000)
    assert 1 = Agent.get(worker, fn _ -> 1 end)
    assert {:max_heap_size, %{size: 125_000_000}} = Process.info(worker, :max_heap_size)
  end
end
