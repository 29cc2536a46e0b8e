defmodule OOM.TreeTest do
  # The application's own parts run; the guard is idle, and the tests kill as the guard does.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Holds, Kill, Tree, Units, VictimQueue, Victims, Workers}
  alias OOM.Owned.Line
  alias OOM.Test.UsedUp
  alias OOM.Tree.Census

  defp below(child, options \\ []) do
    {top, _} =
      start(Keyword.get(options, :backoff, :short), [], Keyword.delete(options, :backoff))

    {:ok, supervisor} = Supervisor.start_child(top, child)
    {top, supervisor}
  end

  defp plain(children, options) do
    options = Keyword.merge([strategy: :one_for_one], options)

    %{
      id: :plain,
      type: :supervisor,
      restart: :temporary,
      start: {UsedUp, :start_link, [Supervisor, children, options]}
    }
  end

  defp dynamic, do: {DynamicSupervisor, strategy: :one_for_one, max_restarts: 0}

  # Ends a worker as the guard does, in the same order.
  defp end_one(pid, bytes \\ 1) do
    row = Workers.lookup(pid)
    assert row != nil
    Victims.mark(pid, System.monotonic_time(:millisecond), bytes)
    Workers.delete(pid)
    ref = Process.monitor(pid)
    :ok = Kill.run(pid, elem(row, 5), 1_000)
    assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}
    :ok
  end

  defp errors(log), do: log |> String.split("\n") |> Enum.filter(&(&1 =~ "[error]"))
  defp rank(pid), do: Workers.rank(pid)
  defp walk, do: Census.walk()
  defp again(id, not_pid), do: fn -> (pid = started(id)) != not_pid && pid end

  # Returns everything a supervisor knows of its children, but for pids.
  defp shape(supervisor) do
    for {id, pid, type, modules} <- Supervisor.which_children(supervisor),
        do: {id, is_pid(pid), type, modules}
  end

  defp some(list), do: list != [] && list

  defp held_under(supervisor),
    do:
      for(
        [hold] <- :ets.match(Holds, {{supervisor, :_}, :"$1"}),
        hold.state != :running,
        do: hold
      )

  describe "what is found" do
    test "workers below plain supervisors, with the declarations above them" do
      child = OOM.child_spec(plain([worker(:a), plain([worker(:b)], [])], []), priority: :low)
      below(child)
      {a, b} = {started(:a), started(:b)}
      walk()
      assert rank(a) == 250
      assert rank(b) == 250
    end

    test "the nearest declaration wins, and the worker's own above all" do
      inner = OOM.child_spec(plain([worker(:b)], []), priority: :high)
      below(OOM.child_spec(plain([worker(:a), inner], []), priority: :low))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert {rank(a), rank(b)} == {250, 750}
      :ok = OOM.set_priority(a, 3)
      walk()
      assert rank(a) == 3
    end

    test "an OOM.Supervisor deep below inherits, unless it says otherwise" do
      nested = fn id, oom ->
        start = {OOM.Supervisor, :start_link, [[worker(id)], [strategy: :one_for_one, oom: oom]]}
        %{id: id, type: :supervisor, start: start}
      end

      children = [nested.(:a, []), nested.(:b, priority: 700)]
      below(OOM.child_spec(plain(children, []), priority: :low))
      assert {rank(started(:a)), rank(started(:b))} == {250, 700}
    end

    # Nobody starts the supervisor then, so nobody declares the priority again.
    test "the declaration for an OOM.Supervisor outlives a change of its code" do
      nested = {OOM.Test.Trees.OfOOM, :start_link, [fn -> {:ok, {flags(), []}} end]}
      unit = %{id: :unit, type: :supervisor, start: nested}

      {top, low} =
        below(
          OOM.child_spec(%{id: :low, type: :supervisor, start: nested},
            priority: :low,
            max_kills: 3
          )
        )

      {:ok, unit} = Supervisor.start_child(top, OOM.child_spec(unit, unit: true))
      before = Tree.lookup(unit)

      for supervisor <- [low, unit] do
        :sys.suspend(supervisor)
        :ok = :sys.change_code(supervisor, OOM.Supervisor.Server, nil, [])
        :sys.resume(supervisor)
      end

      {:ok, a} = Supervisor.start_child(low, worker(:a))
      {:ok, b} = Supervisor.start_child(unit, worker(:b))
      assert rank(a) == 250
      assert Tree.options(low)[:max_kills] == 3
      assert Tree.lookup(unit) == before
      assert Workers.member?(unit)
      refute Workers.member?(b)
      walk()
      refute Workers.member?(b)
    end

    test "a worker found first takes its supervisor's word" do
      {_, supervisor} = below(dynamic())
      {:ok, a} = DynamicSupervisor.start_child(supervisor, worker(:a))
      walk()
      assert rank(a) == 500
      :ok = Workers.attach(a, 300, supervisor, :a, [])
      assert rank(a) == 300
    end

    test "a supervisor whose specification calls it a worker" do
      {_, supervisor} = below(Map.delete(plain([worker(:a)], []), :type))
      a = started(:a)
      eventually(fn -> Tree.kind(supervisor) == :supervisor end)
      walk()
      refute Workers.member?(supervisor)
      assert rank(a) == 500
    end

    test "a process started by a worker is the worker's, and nothing outside is found" do
      {_, supervisor} = below(dynamic())
      {:ok, a} = DynamicSupervisor.start_child(supervisor, {Agent, fn -> spawn(&idle/0) end})
      outside = ExUnit.Callbacks.start_supervised!({DynamicSupervisor, strategy: :one_for_one})
      {:ok, b} = DynamicSupervisor.start_child(outside, {Agent, fn -> nil end})
      walk()
      assert Workers.member?(a)
      refute a |> Agent.get(& &1) |> Workers.member?()
      refute Workers.member?(b)
      refute Tree.kind(outside)

      for {_, pid, _, _} <- Supervisor.which_children(OOM.Application), is_pid(pid) do
        refute Workers.member?(pid)
        refute Tree.kind(pid)
      end
    end

    test "ended workers are forgotten" do
      {top, supervisor} = below(plain([worker(:a)], []))
      a = started(:a)
      walk()
      assert Tree.kind(supervisor) == :supervisor
      :ok = Supervisor.terminate_child(top, :plain)
      walk()
      refute Tree.kind(supervisor)
      eventually(fn -> not Workers.member?(a) end)
    end
  end

  describe "a kill with consent" do
    test "Supervisor, one_for_one: held and back, nothing restarted or counted" do
      for restart <- [:permanent, :transient] do
        children = [worker(:a, restart: restart), worker(:b)]
        {top, supervisor} = below(plain(children, []))
        {a, b} = {started(:a), started(:b)}
        walk()
        before = shape(supervisor)
        end_one(a)
        a2 = eventually(again(:a, a))
        assert Process.alive?(a2) and Process.alive?(b)
        eventually(fn -> shape(supervisor) == before end)
        assert [{:plain, ^supervisor, _, _}] = Supervisor.which_children(top)
        Supervisor.terminate_child(top, :plain)
      end
    end

    test "Supervisor, one_for_all and rest_for_one: the unit goes and comes back" do
      for {strategy, stays} <- [one_for_all: [], rest_for_one: [:a]] do
        children = [worker(:a), worker(:b), worker(:c)]
        {top, supervisor} = below(plain(children, strategy: strategy))
        pids = for id <- [:a, :b, :c], into: %{}, do: {id, started(id)}
        walk()
        before = shape(supervisor)
        end_one(pids.b)
        for id <- [:a, :b, :c] -- stays, do: assert(started(id) != pids[id])
        for id <- stays, do: assert(Process.alive?(pids[id]))
        assert shape(supervisor) == before
        Supervisor.terminate_child(top, :plain)
      end
    end

    test "temporary children are forgotten" do
      {_, supervisor} = below(plain([worker(:a, restart: :temporary), worker(:b)], []))
      {a, b} = {started(:a), started(:b)}
      walk()
      end_one(a)
      eventually(fn -> match?([{:b, ^b, _, _}], Supervisor.which_children(supervisor)) end)
      assert held_under(supervisor) == []
    end

    test "DynamicSupervisor: permanent and transient come back, temporary do not" do
      {_, supervisor} = below(dynamic())

      for restart <- [:permanent, :transient, :temporary] do
        {:ok, a} = DynamicSupervisor.start_child(supervisor, worker(:a, restart: restart))
        {:ok, b} = DynamicSupervisor.start_child(supervisor, worker(:b, restart: restart))
        {^a, ^b} = {started(:a), started(:b)}
        walk()
        end_one(a)

        if restart == :temporary do
          eventually(fn -> DynamicSupervisor.count_children(supervisor).active == 5 end)
          assert held_under(supervisor) == []
        else
          a2 = eventually(again(:a, a))
          children = DynamicSupervisor.which_children(supervisor)
          assert {:undefined, a2, :worker, [OOM.Test.Worker]} in children
        end

        assert Process.alive?(b)
      end
    end

    test "simple_one_for_one: with the arguments it was started with" do
      spec = Map.update!(worker(:x), :start, fn {m, f, _} -> {m, f, []} end)

      flags = %{strategy: :simple_one_for_one, intensity: 0, period: 1}
      start = {:supervisor, :start_link, [OOM.Test.Template, {flags, [spec]}]}

      {_, supervisor} = below(%{id: :simple, type: :supervisor, start: start})
      {:ok, a} = :supervisor.start_child(supervisor, [[id: :a, owner: self()]])
      {:ok, b} = :supervisor.start_child(supervisor, [[id: :b, owner: self()]])
      {^a, ^b} = {started(:a), started(:b)}
      walk()
      end_one(a)
      a2 = eventually(again(:a, a))
      pids = for {_, pid, _, _} <- :supervisor.which_children(supervisor), do: pid
      assert Enum.sort(pids) == Enum.sort([a2, b])
    end

    test "Task.Supervisor: tasks are killed and forgotten" do
      {_, supervisor} = below({Task.Supervisor, max_restarts: 0})
      {:ok, a} = Task.Supervisor.start_child(supervisor, &idle/0)
      {:ok, b} = Task.Supervisor.start_child(supervisor, &idle/0)
      walk()
      end_one(a)
      eventually(fn -> Task.Supervisor.children(supervisor) == [b] end)
    end

    test "a Registry is not killed: all registered processes would end with it" do
      name = :"registry_#{System.unique_integer([:positive])}"
      registry = {Registry, keys: :unique, name: name, partitions: 2}
      {_, supervisor} = below(OOM.child_spec(registry, priority: :low))
      {_, users} = below(dynamic())
      init = fn -> Registry.register(name, :key, nil) end
      {:ok, user} = DynamicSupervisor.start_child(users, {Agent, init})
      walk()
      partitions = for {_, pid, _, _} <- Supervisor.which_children(supervisor), do: pid
      assert length(partitions) == 2
      for pid <- partitions, do: assert(rank(pid) == :protected)
      assert rank(user) == 500
      assert Agent.stop(user) == :ok
    end

    # `Task.Supervisor.async/2` links the task and its caller: the end of the task ends the caller.
    test "a task is worth as much as a caller that awaits the task and would end with it" do
      {_, tasks} = below(OOM.child_spec({Task.Supervisor, max_restarts: 0}, priority: :low))
      awaits = fn -> Task.Supervisor.async(tasks, &idle/0).pid end

      {top, _} = start(:short, [])

      caller = fn id, priority, fun ->
        spec = %{id: id, start: {Agent, :start_link, [fun]}, restart: :temporary}
        {:ok, pid} = Supervisor.start_child(top, OOM.child_spec(spec, priority: priority))
        Agent.get(pid, & &1)
      end

      protected = caller.(:protected, :protected, awaits)
      high = caller.(:high, :high, awaits)
      lowest = caller.(:lowest, 0, awaits)

      # A caller that traps exits lives on, and so does a caller that only monitors the task; or nobody waits
      # at all.
      {_, traps} = caller.(:traps, :high, fn -> {Process.flag(:trap_exit, true), awaits.()} end)
      nolink = fn -> Task.Supervisor.async_nolink(tasks, &idle/0).pid end
      nolink = caller.(:nolink, :protected, nolink)
      {:ok, alone} = Task.Supervisor.start_child(tasks, &idle/0)

      # By way of another task.
      test = self()

      nested = fn ->
        send(test, {:nested, awaits.()})
        idle()
      end

      caller.(:nested, 800, fn -> Task.Supervisor.async(tasks, nested).pid end)
      assert_receive {:nested, nested}

      # Awaited by a process OOM may not kill.
      outside = start_supervised!({Agent, fn -> nil end})
      foreign = Agent.get(outside, fn _ -> awaits.() end)

      walk()
      pids = [protected, high, lowest, traps, nolink, alone, nested, foreign]
      assert Enum.map(pids, &rank/1) == [:protected, 750, 250, 250, 250, 250, 800, :protected]
    end

    test "PartitionSupervisor: below one of its partitions, and a partition of workers" do
      name = :"partitions_#{System.unique_integer([:positive])}"
      {_, _} = below({PartitionSupervisor, child_spec: dynamic(), name: name, partitions: 2})
      via = {:via, PartitionSupervisor, {name, 1}}
      {:ok, a} = DynamicSupervisor.start_child(via, worker(:a))
      ^a = started(:a)
      walk()
      end_one(a)
      eventually(again(:a, a))
      assert PartitionSupervisor.count_children(name).active == 2
    end

    test "a supervisor with a loop of its own: just killed, and nothing it does not know is sent" do
      {_, supervisor} =
        below(%{id: :conns, type: :supervisor, start: {__MODULE__.Conns, :start, []}})

      [a, b] = for _ <- 1..2, do: __MODULE__.Conns.connect(supervisor)
      walk()
      assert Tree.kind(supervisor) == :special
      end_one(a)

      eventually(fn ->
        __MODULE__.Conns.ended(supervisor) == [{a, {:shutdown, :memory_pressure}}]
      end)

      assert Process.alive?(b)
    end

    test "RabbitMQ's supervisor, which its specification calls a worker" do
      start = {__MODULE__.Conns, :start, [{:supervisor2, :init, 1}]}
      {_, plain} = below(plain([%{id: :conns, start: start}], []))
      [{_, supervisor, :worker, _}] = Supervisor.which_children(plain)
      connection = __MODULE__.Conns.connect(supervisor)
      walk()
      assert Tree.kind(supervisor) == :special
      refute Workers.member?(supervisor)
      assert Workers.member?(connection)
      message = ~r/expected a worker, got the supervisor/
      assert_raise ArgumentError, message, fn -> OOM.set_priority(supervisor, :low) end
    end

    test "a process that a supervisor's child specification did not name" do
      parent = self()

      start = fn ->
        send(parent, {:extra, spawn_link(&idle/0)})
        Agent.start_link(fn -> nil end)
      end

      child = %{id: :a, start: {Kernel, :apply, [start, []]}}
      {_, supervisor} = below(plain([child], []))
      assert_receive {:extra, extra}
      walk()
      before = Supervisor.which_children(supervisor)
      end_one(extra)
      assert Supervisor.which_children(supervisor) == before
    end

    test "below a supervisor not looked at yet" do
      walk()
      {_, supervisor} = below(plain([OOM.child_spec(worker(:a), priority: :low)], []))
      a = started(:a)
      end_one(a)
      eventually(again(:a, a))
      assert Process.alive?(supervisor)
    end

    test "a declaration for a child holds below plain supervisors, too" do
      child = OOM.child_spec(worker(:a), max_kills: 1)

      for above <- [plain([child], []), dynamic()] do
        {_, supervisor} = below(above)
        if above == dynamic(), do: {:ok, _} = DynamicSupervisor.start_child(supervisor, child)
        a = started(:a)
        walk()
        end_one(a)
        eventually(fn -> match?([%{state: :given_up, max_kills: 1}], held_under(supervisor)) end)
      end
    end

    test "a plain supervisor keeps nothing of ended children" do
      {_, supervisor} = below(dynamic())
      entries = fn -> supervisor |> Process.info(:dictionary) |> elem(1) |> length() end

      [first | _] =
        counts =
        for n <- 1..5 do
          child = OOM.child_spec(worker({:connection, n}, restart: :temporary), priority: :low)
          {:ok, pid} = DynamicSupervisor.start_child(supervisor, child)
          :ok = DynamicSupervisor.terminate_child(supervisor, pid)
          entries.()
        end

      assert List.last(counts) == first
    end

    test "a child that takes long to leave is not started again before its end" do
      test = self()

      linger = fn ->
        Process.flag(:trap_exit, true)
        send(test, {:started, :slow, self()})

        receive do
          {:EXIT, _, {:shutdown, :memory_pressure}} -> receive(do: (:go -> :ok))
          {:EXIT, _, :shutdown} -> :ok
        end
      end

      {_, supervisor} = below({Task.Supervisor, max_restarts: 0})
      {:ok, pid} = Task.Supervisor.start_child(supervisor, linger, restart: :permanent)
      ^pid = started(:slow)
      walk()
      row = Workers.lookup(pid)
      Victims.mark(pid, System.monotonic_time(:millisecond), 1)
      Workers.delete(pid)
      spawn(Kill, :run, [pid, elem(row, 5), 60_000])
      # On its way back, with the old process still alive.
      eventually(fn -> match?([%{state: :releasing}], held_under(supervisor)) end)
      refute_received {:started, :slow, _}
      send(pid, :go)
      eventually(again(:slow, pid))
    end

    test "a child that traps exits gets the exit from its supervisor, and leaves in order" do
      {_, supervisor} = below(dynamic())
      {:ok, a} = DynamicSupervisor.start_child(supervisor, worker(:a, []) |> trapping())
      ^a = started(:a)
      walk()
      end_one(a)
      assert_receive {:stopped, :a, {:shutdown, :memory_pressure}}
      eventually(again(:a, a))
    end

    test "a child registered by itself is killed with consent, too" do
      test = self()

      init = fn ->
        send(test, {:started, :self, self()})
        OOM.set_priority(:low)
      end

      {_, supervisor} = below(plain([{Agent, init}], []))
      pid = started(:self)
      walk()
      eventually(fn -> rank(pid) == 250 end)
      end_one(pid)
      eventually(again(:self, pid))
      assert Process.alive?(supervisor)
    end

    test "below no OOM.Supervisor: a registered worker is held and back, others are not ours" do
      for register <- [:itself, :by_its_specification] do
        low = [init: fn _ -> OOM.set_priority(:low) end]
        a = if register == :itself, do: worker(:a, low), else: OOM.child_spec(worker(:a), [])
        # The supervisor must not count as started by the test below something of ours.
        options = [strategy: :one_for_one, max_restarts: 0]
        {:ok, supervisor} = Supervisor.start_link([a, worker(:b)], options)
        [a, b] = [started(:a), started(:b)]
        walk()
        assert Tree.kind(supervisor) == :aside
        refute Workers.member?(b)
        end_one(a)
        eventually(fn -> OOM.release({supervisor, :a}) == :ok end)
        assert started(:a) != a
        assert Process.alive?(b)
        assert Supervisor.count_children(supervisor).active == 2
        Supervisor.stop(supervisor)
      end
    end

    test "a supervisor that is busy for long delays no kill, and restarts nothing after it" do
      for child <- [plain([worker(:a)], []), dynamic()] do
        {_, supervisor} = below(child, backoff: :long)

        if child == dynamic(), do: DynamicSupervisor.start_child(supervisor, worker(:a))
        a = started(:a)
        walk()
        test = self()

        slow = fn ->
          send(test, {:starting, self()})
          receive(do: (:go -> {:ok, spawn_link(&idle/0)}))
        end

        spec = %{id: :slow, restart: :temporary, start: {Kernel, :apply, [slow, []]}}
        spawn(fn -> start_slow(supervisor, spec) end)
        assert_receive {:starting, ^supervisor}
        end_one(a)
        assert held_under(supervisor) == []
        send(supervisor, :go)
        eventually(fn -> match?([%{state: :held}], held_under(supervisor)) end)
        refute_received {:started, :a, _}
        assert Process.alive?(supervisor)
      end
    end
  end

  describe "logs" do
    test "a kill with consent leaves no error report" do
      log =
        ExUnit.CaptureLog.capture_log(fn ->
          for child <- [plain([worker(:a)], []), dynamic()] do
            {_, supervisor} = below(child)
            if child == dynamic(), do: DynamicSupervisor.start_child(supervisor, worker(:a))
            a = started(:a)
            walk()
            end_one(a)
            eventually(again(:a, a))
          end
        end)

      # Elixir 1.15 and later log progress reports, too: such reports name supervisors and are no errors.
      refute log =~ "memory_pressure"
      # A child given up in an earlier test may still be told here.
      assert [] == for(line <- errors(log), not (line =~ "is given up"), do: line)
    end
  end

  describe "units" do
    test "one_for_all: as much as the most important of them; a protected one protects all" do
      children = [
        OOM.child_spec(worker(:a), priority: 100),
        OOM.child_spec(worker(:b), priority: 700)
      ]

      {_, supervisor} = below(plain(children, strategy: :one_for_all))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert {rank(a), rank(b)} == {700, 700}
      assert {Units.own(a), Units.own(b)} == {100, 700}

      OOM.set_priority(b, :protected)
      # Before the next walk, the plan itself asks.
      assert Units.spared?(supervisor, a)
      walk()
      assert rank(a) == :protected

      OOM.set_priority(b, :low)
      walk()
      assert {rank(a), rank(b)} == {250, 250}
    end

    test "rest_for_one: as much as the children started after it" do
      children =
        for {id, priority} <- [a: 100, b: 700, c: 300],
            do: OOM.child_spec(worker(id), priority: priority)

      for child <- [plain(children, strategy: :rest_for_one)] do
        below(child)
        [a, b, c] = for id <- [:a, :b, :c], do: started(id)
        walk()
        assert Enum.map([a, b, c], &rank/1) == [700, 700, 300]
      end
    end

    # Nobody has looked yet at the children that would go along.
    test "under an OOM.Supervisor a child just started goes last" do
      for strategy <- [:one_for_all, :rest_for_one] do
        children = [
          OOM.child_spec(worker(:a), priority: 100),
          OOM.child_spec(worker(:b), priority: :protected)
        ]

        {top, pids} = start(:short, children, strategy: strategy, max_restarts: 1)
        assert {rank(pids.a), Units.own(pids.a)} == {1000, 100}
        walk()
        assert rank(pids.a) == :protected

        # A new child is as unknown as the first.
        GenServer.cast(pids.a, {:stop, :crash})
        {a, b} = {started(:a), started(:b)}
        :sys.get_state(top)
        assert {rank(a), Units.own(a)} == {1000, 100}
        assert rank(b) == :protected
        walk()
        assert rank(a) == :protected
        OOM.set_priority(b, :low)
        walk()
        assert rank(a) == 250
      end
    end

    test "under an OOM.Supervisor, too, and with everything below a supervisor" do
      deep = plain([OOM.child_spec(worker(:deep), priority: :protected)], [])
      start = {OOM.Supervisor, :start_link, [[worker(:a), deep], [strategy: :one_for_all]]}
      below(%{id: :all, type: :supervisor, start: start})
      a = started(:a)
      walk()
      walk()
      assert rank(a) == :protected
    end

    test "a temporary significant child is worth all it ends, a transient one has its own rank" do
      children = [
        worker(:a, restart: :temporary, significant: true),
        worker(:b, restart: :transient, significant: true),
        OOM.child_spec(worker(:c), priority: 600)
      ]

      start = {UsedUp, :start_link, [UsedUp, children, [auto_shutdown: :any_significant]]}
      {_, supervisor} = below(%{id: :ends, type: :supervisor, start: start})
      [a, b, c] = for id <- [:a, :b, :c], do: started(id)
      walk()
      assert Enum.map([a, b, c], &rank/1) == [600, 500, 600]
      end_one(b)
      eventually(again(:b, b))
      assert Process.alive?(supervisor) and Process.alive?(c)
    end

    test "and what goes with its supervisor, where all children there are supervisors that came first" do
      # Each supervisor inside has a row before any walk, so no walk finds a new child of the one above.
      inner = fn id, children, more ->
        %{
          id: id,
          type: :supervisor,
          restart: :permanent,
          start: {UsedUp, :start_link, [UsedUp, children, more]}
        }
      end

      a =
        :a
        |> worker(restart: :temporary, significant: true)
        |> OOM.child_spec(priority: :low)

      b = OOM.child_spec(worker(:b), priority: 600)

      children = [
        OOM.child_spec(inner.(:one, [a], auto_shutdown: :all_significant), max_kills: 3),
        inner.(:two, [b], auto_shutdown: :never)
      ]

      below(plain(children, strategy: :one_for_all))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert {rank(a), rank(b)} == {600, 600}
      # The same after the strategy has replaced all of them.
      end_one(a)
      a_again = eventually(again(:a, a))
      eventually(again(:b, b))
      walk()
      assert rank(a_again) == 600
    end

    test "a temporary child takes nobody along, and has its own rank" do
      children = [
        OOM.child_spec(worker(:a, restart: :temporary), priority: :low),
        OOM.child_spec(worker(:b), priority: :protected)
      ]

      {_, supervisor} = below(plain(children, strategy: :one_for_all))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert rank(a) == 250
      end_one(a)
      eventually(fn -> match?([{:b, ^b, _, _}], Supervisor.which_children(supervisor)) end)
    end

    test "floors follow a child that declared itself and came back" do
      test = self()

      child = fn id, priority ->
        init = fn ->
          :ok = OOM.set_priority(priority)
          send(test, {:started, id, self()})
        end

        %{id: id, start: {Agent, :start_link, [init]}}
      end

      children = [child.(:a, 100), child.(:b, 700)]
      below(plain(children, strategy: :rest_for_one))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert rank(a) == 700
      end_one(b)
      eventually(again(:b, b))
      walk()
      assert rank(a) == 700
    end

    test "nobody is picked before the companions are known" do
      walk()
      children = [OOM.child_spec(worker(:a), priority: :low), worker(:b)]
      {_, plain} = below(plain(children, strategy: :one_for_all))
      start = {OOM.Supervisor, :start_link, [[worker(:c)], [strategy: :one_for_all]]}
      {_, oom} = below(%{id: :all, type: :supervisor, start: start})
      {_, one} = below(%{id: :one, type: :supervisor, start: one_for_one([worker(:d)])})
      {a, c, d} = {started(:a), started(:c), started(:d)}
      assert Units.spared?(plain, a) and Units.spared?(oom, c)
      refute Units.spared?(one, d)
      walk()
      refute Units.spared?(plain, a) or Units.spared?(oom, c)
    end

    test "but where a supervisor is too busy to tell" do
      children = [OOM.child_spec(worker(:a), priority: :low), worker(:b)]
      {_, supervisor} = below(plain(children, strategy: :one_for_all))
      {a, _} = {started(:a), started(:b)}
      :ok = :sys.suspend(supervisor)
      test = self()
      # A suspended supervisor would answer; a supervisor in a call of its own does not.
      spawn(fn ->
        :sys.replace_state(
          supervisor,
          &served(test, &1),
          :infinity
        )
      end)

      assert_receive :busy
      walk()
      refute Units.spared?(supervisor, a)
      send(supervisor, :go)
      :ok = :sys.resume(supervisor)
      walk()
      assert {:one_for_all, :never, [_, _]} = elem(Tree.lookup(supervisor), 4)
      refute Units.spared?(supervisor, a)
    end

    defp one_for_one(children),
      do: {OOM.Supervisor, :start_link, [children, [strategy: :one_for_one]]}

    test "the plan passes by one that would take a protected one along" do
      children = [worker(:a), worker(:b)]
      below(plain(children, strategy: :one_for_all))
      {a, b} = {started(:a), started(:b)}
      walk()
      OOM.set_priority(b, :protected)
      now = System.monotonic_time(:millisecond)
      Workers.sampled(a, 1_000_000_000, now, :fresh)

      {victims, _} = VictimQueue.choose(VictimQueue.limits(1, 1_000, now))
      refute a in Enum.map(victims, & &1.pid)
    end
  end

  describe "a supervisor that may restart no child" do
    defp strict(sup, children, options \\ []) do
      options = Keyword.merge([strategy: :one_for_one, max_restarts: 0], options)
      %{id: :strict, type: :supervisor, start: {sup, :start_link, [children, options]}}
    end

    defp above(sup, children, strategy) do
      start = {sup, :start_link, [children, [strategy: strategy]]}
      %{id: :above, type: :supervisor, start: start}
    end

    test "ends with a killed child, and comes back with what depends on it" do
      for above <- [Supervisor, OOM.Supervisor],
          strict <- [Supervisor, OOM.Supervisor],
          restart <- [:permanent, :transient] do
        strict = strict(strict, [worker(:a, restart: restart), worker(:b)])
        {_, supervisor} = below(above(above, [strict, worker(:c)], :rest_for_one))
        [a, b, c] = for id <- [:a, :b, :c], do: started(id)
        walk()
        refs = for pid <- [b, c], do: Process.monitor(pid)
        end_one(a)
        for ref <- refs, do: assert_receive({:DOWN, ^ref, _, _, :shutdown}, 5_000)
        [a2, b2, c2] = for id <- [:a, :b, :c], do: started(id)
        assert [a2, b2, c2] -- [a, b, c] == [a2, b2, c2]
        assert Process.alive?(supervisor)

        assert Enum.map(Supervisor.which_children(supervisor), &elem(&1, 1))
               |> Enum.all?(&is_pid/1)
      end
    end

    test "is held as a whole, with the size of the victim" do
      strict = strict(Supervisor, [worker(:a), worker(:b)], strategy: :one_for_all)
      {_, supervisor} = below(above(Supervisor, [strict], :one_for_one), backoff: :long)
      {a, _b} = {started(:a), started(:b)}
      walk()
      end_one(a, 7)
      assert [%{ids: [:strict], bytes: 7}] = eventually(fn -> some(held_under(supervisor)) end)
      assert [{:strict, :undefined, _, _}] = Supervisor.which_children(supervisor)
    end

    test "makes each child worth as much as all that would end" do
      strict = strict(Supervisor, [worker(:a), OOM.child_spec(worker(:b), priority: :high)])
      below(above(Supervisor, [strict], :one_for_one))
      {a, _b} = {started(:a), started(:b)}
      walk()
      walk()
      assert rank(a) == OOM.Priority.rank!(:high)
    end

    # While the supervisor starts its children it answers no question, and the first of them may fill the VM.
    test "spares no child at the top of the tree, before any walk" do
      {top, %{a: a}} = start(:long, [:a], max_restarts: 0)
      assert Tree.dependence(top) == :none
      refute Units.spared?(top, a)
    end

    test "holds the child alone where no supervisor above could hold the whole" do
      {:ok, supervisor} =
        Supervisor.start_link([OOM.child_spec(worker(:a), [])],
          strategy: :one_for_one,
          max_restarts: 0
        )

      a = started(:a)
      walk()
      end_one(a)
      eventually(fn -> OOM.release({supervisor, :a}) == :ok end)
      assert started(:a) != a
      Supervisor.stop(supervisor)
    end
  end

  describe "a supervisor started by a worker" do
    defmodule Owner do
      @moduledoc false
      use GenServer

      def start_link({test, children}), do: GenServer.start_link(__MODULE__, {test, children})

      @impl true
      def init({test, children}) do
        {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
        send(test, {:inner, supervisor})
        {:ok, nil}
      end
    end

    test "has workers of its own, with the owner's rank, held there" do
      {top, _} = start(:short, [])
      own = {Owner, :start_link, [{self(), [worker(:a), worker(:b)]}]}

      {:ok, owner} =
        Supervisor.start_child(top, OOM.child_spec(%{id: :own, start: own}, priority: 90))

      assert_receive {:inner, inner}
      {a, b} = {started(:a), started(:b)}
      walk()
      assert Enum.map([owner, a, b], &rank/1) == [90, 90, 90]
      assert Tree.kind(inner) == :supervisor
      end_one(a)
      assert started(:a) != a
      assert Process.alive?(owner) and Process.alive?(b) and Process.alive?(inner)
    end

    test "is a part of the owner in a unit" do
      {top, _} = start(:short, [])
      own = {Owner, :start_link, [{self(), [worker(:a)]}]}
      spec = OOM.child_spec(%{id: :own, type: :supervisor, start: own}, unit: true)
      {:ok, owner} = Supervisor.start_child(top, spec)
      assert_receive {:inner, inner}
      a = started(:a)
      walk()
      assert Workers.member?(owner)
      refute Workers.member?(a) or Workers.member?(inner)
    end
  end

  describe "a supervisor that ends because of a significant child" do
    defp ending(auto, children, restart \\ :permanent) do
      start = {UsedUp, :start_link, [UsedUp, children, [auto_shutdown: auto]]}
      %{id: :ends, type: :supervisor, restart: restart, start: start}
    end

    test "is held by the one above it, which counts no restart" do
      children = [worker(:a, restart: :temporary, significant: true), worker(:b)]
      ends = ending(:any_significant, children)
      oom = %{id: :oom, type: :supervisor, start: one_for_one([ends])}

      for above <- [plain([ends], []), dynamic(), oom] do
        {top, supervisor} = below(above)
        if above == dynamic(), do: {:ok, _} = DynamicSupervisor.start_child(supervisor, ends)
        {a, b} = {started(:a), started(:b)}
        walk()
        end_one(a)
        {a2, b2} = {eventually(again(:a, a)), started(:b)}
        assert a2 != a and b2 != b
        assert [{_, ^supervisor, _, _}] = Supervisor.which_children(top)
      end
    end

    # A kill in between would end the significant child, and the supervisor would live on, marked.
    test "does, whichever child is killed before the supervisor hears of that" do
      significant = worker(:a, restart: :temporary, significant: true)
      flags = %{strategy: :one_for_all, intensity: 0, period: 1, auto_shutdown: :any_significant}
      start = {:supervisor, :start_link, [OOM.Test.Template, {flags, [significant, worker(:b)]}]}
      {top, supervisor} = below(%{id: :ends, type: :supervisor, start: start})
      {a, b} = {started(:a), started(:b)}
      walk()
      [ref | _] = for pid <- [supervisor, a, b], do: Process.monitor(pid)
      test = self()
      spawn(fn -> :sys.replace_state(supervisor, &served(test, &1), :infinity) end)
      assert_receive :busy

      for pid <- [a, b] do
        Victims.mark(pid, System.monotonic_time(:millisecond), 1)
        OOM.Visit.take(supervisor, pid)
      end

      for pid <- [a, b] do
        Process.exit(pid, {:shutdown, :memory_pressure})
        assert_receive {:DOWN, _, _, ^pid, {:shutdown, :memory_pressure}}
      end

      send(supervisor, :go)
      assert_receive {:DOWN, ^ref, _, _, :shutdown}
      # The supervisor is held as a whole, and back.
      assert is_pid(started(:a)) and is_pid(started(:b))
      assert [{:ends, new, _, _}] = Supervisor.which_children(top)
      assert new != supervisor
    end

    test "stays down where it is not permanent, as ever" do
      children = [worker(:a, restart: :temporary, significant: true), worker(:b)]
      ends = ending(:any_significant, children, :transient)

      for above <- [plain([ends], []), %{id: :oom, type: :supervisor, start: one_for_one([ends])}] do
        {_, supervisor} = below(above)
        {a, _b} = {started(:a), started(:b)}
        walk()
        end_one(a)

        eventually(fn ->
          match?([{:ends, :undefined, _, _}], Supervisor.which_children(supervisor))
        end)

        assert held_under(supervisor) == []
      end
    end

    test "does not while another significant child is held" do
      children = [
        worker(:a, restart: :transient, significant: true),
        worker(:b, restart: :temporary, significant: true)
      ]

      oom =
        {OOM.Supervisor, :start_link,
         [children, [strategy: :one_for_one, auto_shutdown: :all_significant]]}

      for child <- [
            ending(:all_significant, children),
            %{id: :oom, type: :supervisor, start: oom}
          ] do
        {_, supervisor} = below(child, backoff: :long)
        {a, b} = {started(:a), started(:b)}
        walk()
        end_one(a)
        eventually(fn -> match?([%{state: :held}], held_under(supervisor)) end)
        end_one(b)

        eventually(fn ->
          match?([{:a, :undefined, _, _}], Supervisor.which_children(supervisor))
        end)

        assert OOM.release({supervisor, :a}) == :ok
        a2 = started(:a)
        assert [{:a, ^a2, _, _}] = Supervisor.which_children(supervisor)
      end
    end
  end

  describe "an OOM.Supervisor whose last significant child ends in order" do
    test "does not end while another is held" do
      significant = [restart: :transient, significant: true]

      children = [
        worker(:a, significant),
        worker(:b, significant),
        worker(:c, restart: :temporary)
      ]

      oom =
        {OOM.Supervisor, :start_link,
         [children, [strategy: :one_for_one, auto_shutdown: :all_significant]]}

      {_, supervisor} = below(%{id: :oom, type: :supervisor, start: oom}, backoff: :long)
      {a, b, c} = {started(:a), started(:b), started(:c)}
      walk()
      end_one(a)
      eventually(fn -> match?([%{state: :held}], held_under(supervisor)) end)
      GenServer.stop(c)
      GenServer.stop(b)

      assert [{:b, :undefined, _, _}, {:a, :undefined, _, _}] =
               Supervisor.which_children(supervisor)

      assert OOM.release({supervisor, :a}) == :ok
      a2 = started(:a)
      # Now no further child is to come back.
      ref = Process.monitor(supervisor)
      GenServer.stop(a2)
      assert_receive {:DOWN, ^ref, _, _, :shutdown}, 10_000
    end
  end

  describe "unit: true" do
    defp unit(children, options \\ []),
      do:
        plain(children, [])
        |> Map.put(:restart, :permanent)
        |> OOM.child_spec([unit: true] ++ options)

    test "is one worker, with what is below it" do
      {_, unit} = below(unit([worker(:a), plain([worker(:b)], [])], priority: 90))
      {a, b} = {started(:a), started(:b)}
      walk()
      assert rank(unit) == 90
      refute Workers.member?(a) or Workers.member?(b)
      assert for(pid <- [a, b], do: elem(Line.worker(pid, %{}), 0)) == [unit, unit]
    end

    test "a process inside that declares itself is no worker" do
      test = self()

      init = fn ->
        :ok = OOM.set_priority(:low, handle_pressure: true)
        send(test, {:started, :self, self()})
      end

      agent = %{id: :self, start: {Agent, :start_link, [init]}}
      {_, unit} = below(unit([plain([agent], [])]))
      pid = started(:self)
      refute Workers.member?(pid)
      :ok = OOM.set_priority(pid, :high)
      walk()
      refute Workers.member?(pid)
      assert rank(unit) == 500
    end

    test "goes in order, whole, is held, and comes back whole" do
      {top, unit} = below(unit([worker(:a) |> trapping(), worker(:b)]))
      {a, b} = {started(:a), started(:b)}
      walk()
      end_one(unit)
      assert_receive {:stopped, :a, :shutdown}
      refute Process.alive?(a) or Process.alive?(b)
      {a2, b2} = {started(:a), started(:b)}
      assert a2 != a and b2 != b

      eventually(fn ->
        match?([{:plain, pid, _, _}] when is_pid(pid), Supervisor.which_children(top))
      end)
    end

    test "below a plain supervisor, and of an OOM.Supervisor" do
      start = {OOM.Supervisor, :start_link, [[worker(:a)], [strategy: :one_for_one]]}
      inner = OOM.child_spec(%{id: :u, type: :supervisor, start: start}, unit: true)
      {_, supervisor} = below(plain([inner], []))
      a = started(:a)
      [{:u, unit, _, _}] = Supervisor.which_children(supervisor)
      refute Workers.member?(a)
      walk()
      refute Workers.member?(a)
      end_one(unit)
      eventually(again(:a, a))
      assert Process.alive?(supervisor)
    end

    test "goes by force where the unit does not leave" do
      {top, unit} = below(unit([worker(:a) |> trapping()]))
      a = started(:a)
      walk()
      :erlang.suspend_process(a)
      refs = for pid <- [unit, a], do: Process.monitor(pid)
      row = Workers.lookup(unit)
      Victims.mark(unit, System.monotonic_time(:millisecond), 1)
      Workers.delete(unit)
      :ok = Kill.run(unit, elem(row, 5), 20)
      for ref <- refs, do: assert_receive({:DOWN, ^ref, _, _, _})
      eventually(again(:a, a))
      assert Process.alive?(top)
    end

    test "is refused where the value is no boolean" do
      assert_raise ArgumentError, ~r/expected :unit to be true or false, got: 1/, fn ->
        OOM.child_spec(worker(:a), unit: 1)
      end
    end
  end

  defp idle, do: receive(do: (:never -> :ok))
  defp flags, do: %{strategy: :one_for_one, intensity: 1, period: 5}

  defp trapping(%{start: {m, f, [options]}} = spec),
    do: %{spec | start: {m, f, [[trap_exit: true] ++ options]}}

  defp start_slow(supervisor, spec) do
    case Tree.lookup(supervisor) do
      {_, _, _, _, :dynamic} -> DynamicSupervisor.start_child(supervisor, spec)
      _ -> Supervisor.start_child(supervisor, spec)
    end
  end

  # As in ranch: a special process that spawns connections and forgets ended connections.
  defmodule Conns do
    def start(call \\ nil), do: :proc_lib.start_link(__MODULE__, :init, [self(), call])

    def init(parent, call) do
      if call, do: Process.put(:"$initial_call", call)
      Process.flag(:trap_exit, true)
      :proc_lib.init_ack(parent, {:ok, self()})
      loop(parent, [])
    end

    def connect(conns) do
      send(conns, {:connect, self()})
      receive(do: ({:connected, pid} -> pid))
    end

    def ended(conns) do
      send(conns, {:ended, self()})
      receive(do: ({:ended_are, ended} -> ended))
    end

    defp loop(parent, ended) do
      receive do
        {:connect, from} ->
          send(from, {:connected, spawn_link(fn -> receive(do: (:never -> :ok)) end)})
          loop(parent, ended)

        {:ended, from} ->
          send(from, {:ended_are, ended})
          loop(parent, ended)

        {:EXIT, ^parent, reason} ->
          exit(reason)

        {:EXIT, pid, reason} ->
          loop(parent, [{pid, reason} | ended])
      end
    end
  end

  # Tells the test of the begin, and goes on when told.
  defp served(test, answer) do
    send(test, :busy)
    receive(do: (:go -> answer))
  end
end
