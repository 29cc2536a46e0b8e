defmodule OOM.Tree.NewbornsTest do
  # The workers that have just come are found by the links of their supervisor, before any walk.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Newcomers, Tree, Workers}
  alias OOM.Test.SlowStart
  alias OOM.Tree.{Census, Newborns}

  setup do
    {:ok, top} =
      OOM.Supervisor.start_link(
        [OOM.child_spec(DynamicSupervisor, priority: :low), Task.Supervisor],
        strategy: :one_for_one
      )

    Census.walk()
    on_exit(fn -> OOM.Level.put(:normal) end)
    pids = Map.new(Supervisor.which_children(top), fn {id, pid, _, _} -> {id, pid} end)
    %{top: top, dynamic: pids[DynamicSupervisor], tasks: pids[Task.Supervisor]}
  end

  defp start(supervisor, spec) do
    {:ok, pid} = DynamicSupervisor.start_child(supervisor, spec)
    pid
  end

  defp agent, do: %{id: :agent, start: {Agent, :start_link, [fn -> nil end]}}

  test "a supervisor of dynamic children is searched, the one above is not", context do
    supervisors = Newborns.supervisors()
    assert context.dynamic in supervisors and context.tasks in supervisors
    refute context.top in supervisors
  end

  test "new children become workers with the rank of their supervisor", %{dynamic: dynamic} do
    pids = for _ <- 1..3, do: start(dynamic, agent())

    assert dynamic |> Newborns.children(false) |> Enum.sort() ==
             for(pid <- pids, do: {pid, dynamic})

    for pid <- pids,
        do: assert({^pid, 250, 0, nil, :new, ^dynamic, nil, _, nil} = Workers.lookup(pid))

    # Each is found once.
    assert Newborns.children(dynamic, false) == []
    assert Newborns.check(for pid <- pids, do: {pid, dynamic}) == []
  end

  test "what a child holds that is found soon after the last search was taken since; each is a newcomer",
       %{
         dynamic: dynamic
       } do
    OOM.Level.put(:high)
    older = start(dynamic, agent())
    [_] = Newborns.children(dynamic, false)
    younger = start(dynamic, agent())
    [_] = Newborns.children(dynamic, true)
    assert elem(Workers.lookup(older), 8) == nil
    assert {:born, _, _} = elem(Workers.lookup(younger), 8)
    newcomers = Newcomers.since(System.monotonic_time(:millisecond) - 3_000)
    assert is_map_key(newcomers, younger) and is_map_key(newcomers, older)
    # Nobody saw the birth of the older one.
    refute is_map_key(Newcomers.since(System.monotonic_time(:millisecond) - 900), older)
  end

  test "a child in its start is let go, and found again", %{dynamic: dynamic} do
    {pid, _} = start = SlowStart.begin(dynamic)
    assert Newborns.children(dynamic, true) == [{pid, dynamic}]
    assert Newborns.check([{pid, dynamic}]) == [pid]
    assert Workers.lookup(pid) == nil
    assert SlowStart.go_on(start) == {:ok, pid}
    assert Newborns.children(dynamic, true) == [{pid, dynamic}]
    assert Newborns.check([{pid, dynamic}]) == []
  end

  test "below an adopted supervisor with rules the walk decides" do
    {:ok, plain} = DynamicSupervisor.start_link([])
    :ok = OOM.adopt(plain, priorities: [{Agent, :protected}])
    Census.walk()
    start(plain, agent())
    assert Newborns.children(plain, true) == []
  end

  test "a search finds the children of all supervisors, and tells the caller of those that must not stand",
       %{
         dynamic: dynamic
       } do
    worker = start(dynamic, agent())
    inner = start(dynamic, {DynamicSupervisor, []})
    searches = Newborns.searches()
    Newborns.start(searches, true)
    assert_receive {:release, [^inner]}, 5_000
    assert Workers.rank(worker) == 250
    eventually(fn -> :atomics.get(searches, 1) == 0 end)
    # While readers are held up no further search begins.
    held_up = start(dynamic, agent())
    :atomics.put(searches, 1, 100)
    Newborns.start(searches, true)
    assert :atomics.get(searches, 1) == 100
    assert Newborns.children(dynamic, true) == [{held_up, dynamic}]
  end

  test "a supervisor is no worker, and must not stand", %{dynamic: dynamic} do
    inner = start(dynamic, {DynamicSupervisor, []})
    assert Newborns.children(dynamic, false) == [{inner, dynamic}]
    assert Newborns.check([{inner, dynamic}]) == [inner]
    assert Workers.lookup(inner) == nil
    assert Tree.kind(inner) == :supervisor
    # The rank holds below, as after a walk.
    child = start(inner, agent())
    Census.walk()
    eventually(fn -> Workers.rank(child) == 250 end)
  end

  test "a process that is linked with the supervisor and no child is left alone", %{
    dynamic: dynamic
  } do
    {:ok, stranger} = Agent.start(fn -> Process.link(dynamic) end)
    assert Newborns.children(dynamic, false) == [{stranger, dynamic}]
    assert Newborns.check([{stranger, dynamic}]) == [stranger]
    assert Workers.lookup(stranger) == nil
    # It is known from now on.
    assert Newborns.children(dynamic, false) == []
    Agent.update(stranger, fn _ -> Process.unlink(dynamic) end)
    Agent.stop(stranger)
  end

  test "a task is worth as much as the process that awaits it", %{tasks: tasks} do
    test = self()

    {:ok, awaits} =
      Task.start(fn ->
        OOM.set_priority(:protected)
        task = Task.Supervisor.async(tasks, fn -> receive(do: (:stop -> :ok)) end)
        send(test, {:task, task.pid})
        Task.await(task, :infinity)
      end)

    assert_receive {:task, task}
    assert Newborns.children(tasks, false) == [{task, tasks}]
    assert Newborns.check([{task, tasks}]) == [task]
    assert Workers.rank(task) == :protected
    send(task, :stop)
    eventually(fn -> not Process.alive?(awaits) end)
  end
end
