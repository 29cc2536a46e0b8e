defmodule OOM.Supervisor.IntrospectionTest do
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  test "get_state gives OTP's state" do
    assert {:state, {{:pid, 1}, :tree}, :one_for_one} =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))
               state = :sys.get_state(pid)
               {elem(state, 0), elem(state, 1), elem(state, 2)}
             end)
  end

  test "get_status tells a supervisor" do
    assert {:gen_server, {:supervisor, :tree, 1}, [{~c"State", {:pid, 1}}]} =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))

               {:status, ^pid, {:module, module}, [dictionary, _, _, _, misc]} =
                 :sys.get_status(pid)

               [{title, state}] =
                 for {:data, [{~c"State", state}]} <- misc, do: {~c"State", state}

               {{supervisor, _}, pid} = {elem(state, 1), pid}
               true = supervisor == pid
               {module, dictionary[:"$initial_call"], [{title, supervisor}]}
             end)
  end

  test "the release handler finds the module" do
    assert :tree =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))
               :supervisor.get_callback_module(pid)
             end)
  end

  test "is known as a supervisor to its parent's tools" do
    assert {:supervisor, :tree, 1} =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))
               :proc_lib.translate_initial_call(pid)
             end)
  end

  test "suspend and resume work" do
    assert %{active: 1} =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))
               :ok = :sys.suspend(pid)
               :ok = :sys.resume(pid)
               Supervisor.count_children(pid)
             end)
  end

  test "children know their ancestors and what they began as" do
    assert [
             {Agent, [:introspected, {:pid, 1} | _], {_, _, 0}},
             {:a, [:introspected, {:pid, 1} | _], {Worker, :init, 1}}
           ] =
             same(fn sup ->
               children = [worker(:a), {Agent, fn -> 0 end}]
               {:ok, pid} = sup.start_link(children, strategy: :one_for_one, name: :introspected)

               facts =
                 for {id, child, _, _} <- Supervisor.which_children(pid) do
                   {:dictionary, dictionary} = Process.info(child, :dictionary)
                   {id, dictionary[:"$ancestors"], :proc_lib.translate_initial_call(child)}
                 end

               :ok = Supervisor.stop(pid)
               facts
             end)
  end

  test "it is linked with its parent and its children, and with nobody else" do
    assert {3, {:trap_exit, true}, {:pid, 1}} =
             same(fn sup ->
               children = [worker(:a), worker(:b)]
               {:ok, pid} = sup.start_link(children, strategy: :one_for_one)
               {:links, links} = Process.info(pid, :links)
               {:dictionary, dictionary} = Process.info(pid, :dictionary)
               {length(links), Process.info(pid, :trap_exit), hd(dictionary[:"$ancestors"])}
             end)
  end

  test "get_status is laid out alike" do
    same(fn sup ->
      {:ok, pid} = Trees.of(sup).start_link(init(sup))
      {:status, ^pid, module, [dictionary, run, parent, debug, misc]} = :sys.get_status(pid)
      keys = for {key, _} <- dictionary, key in [:"$ancestors", :"$initial_call"], do: key
      titles = for {:data, [{title, _} | _]} <- misc, do: title
      {module, Enum.sort(keys), run, parent, debug, titles}
    end)
  end

  test "the end of its parent ends it, and the end of no other process" do
    assert [:shutdown, {:shutdown, :done}, :other] =
             same(fn sup ->
               for reason <- [:shutdown, {:shutdown, :done}, :other] do
                 {:ok, pid} = Trees.of(sup).start_link(init(sup))
                 stranger = spawn(fn -> Process.exit(pid, :stranger) end)
                 ref = Process.monitor(stranger)
                 receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
                 %{active: 1} = Supervisor.count_children(pid)
                 Process.exit(pid, reason)
                 receive(do: ({:EXIT, ^pid, reason} -> reason))
               end
             end)
  end

  test "a code change takes new children's specifications, which start when asked" do
    assert {:ok, [:b, :a], {:ok, {:pid, 1}}, {:ok, %{start: {Worker, :start_link, [_]}}}} =
             same(fn sup ->
               {:ok, children} = Agent.start_link(fn -> [] end)
               set = &Agent.update(children, fn _ -> &1 end)
               set.([worker(:a)])

               {:ok, pid} =
                 Trees.of(sup).start_link(fn ->
                   sup.init(Agent.get(children, & &1), strategy: :one_for_one)
                 end)

               set.([worker(:a), worker(:b)])
               :ok = :sys.suspend(pid)
               changed = :sys.change_code(pid, Trees.of(sup), nil, [])
               :ok = :sys.resume(pid)

               {changed, for({id, _, _, _} <- Supervisor.which_children(pid), do: id),
                Supervisor.restart_child(pid, :b), :supervisor.get_childspec(pid, :b)}
             end)
  end

  test "an unknown message does no harm" do
    assert %{active: 1} =
             same(fn sup ->
               {:ok, pid} = Trees.of(sup).start_link(init(sup))
               send(pid, :what)
               send(pid, {:EXIT, self(), :normal, :what})
               send(pid, {:DOWN, make_ref(), :process, self(), :normal})
               Supervisor.count_children(pid)
             end)
  end

  defp init(sup) do
    child = worker(:a)
    fn -> sup.init([child], strategy: :one_for_one) end
  end

  defp worker(id), do: Worker.child_spec(id: id, owner: self())
end
