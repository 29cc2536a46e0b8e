defmodule OOM.RecoveryTest do
  # The knowledge left when a process of the application is killed from outside.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Plan, Tables, Tree, Workers}
  alias OOM.Tree.Census

  @tables [Workers, Plan, OOM.Asker, OOM.Victims, Tree, OOM.Units, OOM.Holds, OOM.State]

  # A worker that listens, a worker below a plain supervisor, and a held worker.
  setup do
    listener = worker(:a, init: fn _ -> OOM.set_priority(:low, handle_pressure: true) end)

    plain = %{
      id: :plain,
      type: :supervisor,
      start: {Supervisor, :start_link, [[worker(:c)], [strategy: :one_for_one]]}
    }

    {top, %{a: a, b: b}} = start(:long, [listener, :b])
    {:ok, supervisor} = Supervisor.start_child(top, plain)
    c = started(:c)
    Census.walk()
    hold(top, :b, b)
    eventually(fn -> OOM.Holds.count() == 1 end)
    on_exit(fn -> OOM.Level.put(:normal) end)
    {:ok, top: top, a: a, c: c, supervisor: supervisor}
  end

  for {name, order} <- [
        tables: [Tables],
        heir: [Tables.Heir],
        both: [Tables.Heir, Tables, Tables]
      ] do
    test "all known facts outlive #{name}", context do
      before = known(context)

      parts =
        for part <- [OOM.Guard, OOM.Accountant, OOM.Holds, Census], do: Process.whereis(part)

      for process <- unquote(order), do: crash(process)
      assert known(context) == before
      assert {_, 250, _, _, _, _, :a, _, _} = Workers.lookup(context.a)
      assert {_, 500, _, _, _, supervisor, _, _, _} = Workers.lookup(context.c)
      assert supervisor == context.supervisor
      assert {_, :oom, _, _, _} = Tree.lookup(context.top)

      # No process but the killed ones has noticed, and the tables are ready for the next time.
      for part <- parts, do: assert(Process.alive?(part))
      for table <- @tables, do: assert(:ets.info(table, :owner) == Process.whereis(Tables))
      for table <- @tables, do: assert(:ets.info(table, :heir) == Process.whereis(Tables.Heir))
      assert :ok = OOM.release({context.top, :b})
      started(:b)
      :ok = Supervisor.terminate_child(context.top, :a)
      eventually(fn -> not Workers.member?(context.a) end)
    end
  end

  test "a worker that starts while nobody owns the tables is registered", %{top: top} do
    # The suspended supervisor does not restart the tables' owner.
    :sys.suspend(OOM.Application)
    Process.exit(Process.whereis(Tables), :kill)
    eventually(fn -> :ets.info(Workers, :owner) == Process.whereis(Tables.Heir) end)
    {:ok, d} = Supervisor.start_child(top, worker(:d))
    assert Workers.member?(d)
    :sys.resume(OOM.Application)
    eventually(fn -> is_pid(Process.whereis(Tables)) end)
    assert Workers.member?(d)
  end

  test "the keeper is killed: the guard is back at once" do
    before = Process.whereis(OOM.Guard)
    crash(OOM.Keeper)
    guard = eventually(fn -> (pid = Process.whereis(OOM.Guard)) != before && pid end)
    assert %{watcher: watcher} = :sys.get_state(guard)
    assert watcher != nil
  end

  test "the guard is killed while critical, and then normal: all subscribers hear of it" do
    OOM.subscribe()
    OOM.Level.put(:critical)
    # As told by the guard.
    report = OOM.Native.watcher_report(eventually(&Tables.watcher/0))
    OOM.Notifier.level(:normal, %{report | level: :critical})
    assert_receive {:oom, :critical, _}, 5_000
    OOM.Accountant.pressure(:critical, 0)
    assert :sys.get_state(OOM.Accountant).level == :critical
    crash(OOM.Guard)
    assert_receive {:oom, :normal, %OOM.Snapshot{level: :normal}}, 5_000
    assert OOM.level() == :normal
    assert :sys.get_state(OOM.Guard).level == :normal
    for part <- [OOM.Accountant, Census], do: assert(:sys.get_state(part).level == :normal)
    # Once, and not where nothing has changed.
    crash(OOM.Guard)
    :sys.get_state(OOM.Notifier)
    refute_received {:oom, _, _}
    OOM.unsubscribe()
  end

  test "accountant and census are killed while the level is critical, and go on as fast" do
    OOM.Level.put(:critical)
    for part <- [OOM.Accountant, Census], do: crash(part)
    for part <- [OOM.Accountant, Census], do: assert(:sys.get_state(part).level == :critical)
    OOM.Level.put(:normal)
    OOM.Accountant.pressure(:normal, 0)
  end

  defp known(context) do
    plan = for {{rank, _, pid}} <- :ets.tab2list(Plan), pid in [context.a, context.c], do: rank

    rows =
      for pid <- [context.a, context.c],
          do: Workers.lookup(pid) |> Tuple.to_list() |> Enum.take(2)

    tree = for pid <- [context.top, context.supervisor], do: Tree.lookup(pid)
    held = for held <- OOM.held(), do: {held.supervisor, held.id, held.kills, held.state}
    {Enum.sort(plan), rows, tree, held, :ets.member(OOM.Asker, context.a), Tables.config()}
  end

  defp crash(name) do
    before = Process.whereis(name)
    ref = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}
    eventually(fn -> Process.whereis(name) not in [nil, before] end)
    :sys.get_state(name)
    # The heir's message to the tables is handled, too.
    :sys.get_state(Tables)
  end
end
