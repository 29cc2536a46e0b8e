defmodule OOM.UsageTest do
  # The application's own parts run, and the tests check the figures told.
  use ExUnit.Case, async: false

  alias OOM.{Accountant, Branch, Usage}
  alias OOM.Tree.Census

  @mib 1_048_576

  defp hold(megabytes), do: {Agent, fn -> :binary.copy(<<1>>, megabytes * @mib) end}

  defp tree(name) do
    {:ok, dynamic} = DynamicSupervisor.start_link([])

    children = [
      OOM.child_spec(hold(30), id: :a, priority: :low),
      Supervisor.child_spec(hold(20), id: :b),
      OOM.child_spec({DynamicSupervisor, name: Module.concat(name, Below)},
        id: :below,
        priority: :high
      )
    ]

    {:ok, top} = OOM.Supervisor.start_link(children, strategy: :one_for_one, name: name)
    for _ <- 1..3, do: DynamicSupervisor.start_child(Module.concat(name, Below), hold(10))
    # The census does not know this worker.
    {:ok, _} = DynamicSupervisor.start_child(dynamic, hold(50))
    :ok = Census.walk()
    :ok = Accountant.pass()
    top
  end

  defp pid(supervisor, id) do
    {_, pid, _, _} = List.keyfind(Supervisor.which_children(supervisor), id, 0)
    pid
  end

  test "top/1 names the heaviest workers first, whoever started them" do
    top = tree(__MODULE__.Top)
    usages = Enum.filter(OOM.top(100), &(&1.bytes >= 9 * @mib))
    assert [30, 20, 10, 10, 10] = Enum.map(usages, &div(&1.bytes, @mib))

    assert [%Usage{id: :a, priority: :low} = a, %Usage{id: :b, priority: :normal} | below] =
             usages

    assert a.pid == pid(top, :a)
    assert a.supervisor == top
    assert a.own_bytes == a.bytes
    assert is_integer(a.age_ms)
    assert Enum.all?(below, &(&1.priority == :high and &1.supervisor == pid(top, :below)))
    assert [a] == OOM.top(1) |> Enum.map(&%{&1 | age_ms: a.age_ms})
  end

  test "memory a worker owns is told apart" do
    fill = fn ->
      table = :ets.new(:owned, [])
      for n <- 1..20_000, do: :ets.insert(table, {n, {n, n}})
      for _ <- 1..50, do: spawn_link(fn -> Process.sleep(:infinity) end)
      table
    end

    children = [Supervisor.child_spec({Agent, fill}, id: :owner)]
    {:ok, _} = OOM.Supervisor.start_link(children, strategy: :one_for_one)
    # A pass reads each kind only as often as allowed.
    for kind <- OOM.Owned.kinds(), do: OOM.Owned.read(kind)
    :ok = Accountant.pass()
    assert %Usage{} = usage = Enum.find(OOM.top(1_000), &(&1.id == :owner))
    assert usage.tables_bytes >= 20_000 * 7 * 8
    assert usage.children_bytes >= 50 * 1_000
    assert usage.ports_bytes == 0

    assert usage.bytes ==
             usage.own_bytes + usage.tables_bytes + usage.ports_bytes + usage.children_bytes
  end

  test "tree/1 has each subtree with everything below" do
    top = tree(__MODULE__.Tree)
    assert %Branch{} = branch = Enum.find(OOM.tree(2), &(&1.pid == top))
    assert %{name: __MODULE__.Tree, kind: :oom, priority: :normal, workers_count: 5} = branch
    assert div(branch.bytes, @mib) == 80
    assert [:a, :b] = Enum.map(branch.workers, & &1.id)
    assert [below] = branch.branches
    assert %{name: __MODULE__.Tree.Below, kind: :supervisor, priority: :high} = below
    assert %{workers_count: 3, branches: [], held: []} = below
    # No more than asked for.
    assert length(below.workers) == 2
    assert div(below.bytes, @mib) == 30
  end

  test "tree/1 shows held children" do
    top = tree(__MODULE__.Held)
    a = pid(top, :a)
    ref = Process.monitor(a)
    OOM.Kill.begin(a, top, 30 * @mib, System.monotonic_time(:millisecond), 1_000)
    assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}
    # The supervisor has seen the exit by now.
    Supervisor.count_children(top)
    branch = Enum.find(OOM.tree(), &(&1.pid == top))
    assert [%OOM.Held{id: :a, bytes: 31_457_280}] = branch.held
    assert branch.workers_count == 4
  end

  test "workers without a known supervisor stand at the end" do
    OOM.set_priority(:low)
    on_exit(fn -> OOM.Workers.delete(self()) end)
    assert %Branch{pid: nil, kind: nil, workers: workers} = List.last(OOM.tree(1_000))
    assert Enum.any?(workers, &(&1.pid == self()))
  end

  test "a wrong count is refused" do
    for fun <- [&OOM.top/1, &OOM.tree/1], count <- [0, -1, :all] do
      message = "expected count to be a positive integer, got: #{inspect(count)}"
      assert_raise ArgumentError, message, fn -> fun.(count) end
    end
  end
end
