defmodule OOM.Supervisor.ChildrenTest do
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.Worker

  test "which_children and count_children tell all children" do
    assert {[
              {:c, :undefined, :worker, [Worker]},
              {:b, {:pid, 1}, :supervisor, [:facade]},
              {:a, {:pid, 2}, :worker, :dynamic}
            ],
            %{active: 2, specs: 3, supervisors: 1, workers: 2}} =
             same(fn sup ->
               nested = %{
                 id: :b,
                 type: :supervisor,
                 start: {sup, :start_link, [[], [strategy: :one_for_one]]}
               }

               children = [worker(:a, modules: :dynamic), nested, worker(:c)]
               {:ok, pid} = sup.start_link(children, strategy: :one_for_one)
               :ok = Supervisor.terminate_child(pid, :c)
               {Supervisor.which_children(pid), Supervisor.count_children(pid)}
             end)
  end

  describe "start_child" do
    test "starts and lists the child" do
      assert {{:ok, {:pid, 1}}, [{:a, {:pid, 1}, :worker, [Worker]}]} =
               with_supervisor(&none/0, fn pid ->
                 {Supervisor.start_child(pid, worker(:a)), Supervisor.which_children(pid)}
               end)
    end

    test "takes a module, a tuple and Erlang's tuple" do
      assert [{:error, _}, {:ok, {:pid, 1}}, {:ok, {:pid, 2}}] =
               with_supervisor(&none/0, fn pid ->
                 [
                   Supervisor.start_child(pid, %{id: :x, start: {Worker, :no_such, []}}),
                   Supervisor.start_child(pid, {Agent, fn -> 0 end}),
                   Supervisor.start_child(
                     pid,
                     {:old, {Agent, :start_link, [fn -> 0 end]}, :temporary, 5_000, :worker,
                      [Agent]}
                   )
                 ]
               end)
    end

    test "refuses an id already present" do
      assert [{:ok, pid}, {:error, {:already_started, pid}}, :ok, {:error, :already_present}] =
               with_supervisor(&none/0, fn pid ->
                 [
                   Supervisor.start_child(pid, worker(:a)),
                   Supervisor.start_child(pid, worker(:a)),
                   Supervisor.terminate_child(pid, :a),
                   Supervisor.start_child(pid, worker(:a))
                 ]
               end)
    end

    test "tells why a child did not start, and forgets it" do
      for start <- [
            fn -> {:error, :no} end,
            fn -> raise "no" end,
            fn -> :garbage end,
            fn -> exit(:no) end
          ] do
        assert {{:error, {_why, child}}, []} =
                 with_supervisor(&none/0, fn pid ->
                   {Supervisor.start_child(pid, worker(:a, start: start)),
                    Supervisor.which_children(pid)}
                 end)

        assert elem(child, 0) == :child
        assert {Worker, :start_link, [_]} = elem(child, 3)
      end
    end

    test "tells of an already started process" do
      assert {{:error, _}, []} =
               with_supervisor(&none/0, fn pid ->
                 {:ok, other} = Agent.start_link(fn -> 0 end)
                 start = fn -> {:error, {:already_started, other}} end

                 {Supervisor.start_child(pid, worker(:a, start: start)),
                  Supervisor.which_children(pid)}
               end)
    end

    test "may be ignored" do
      for restart <- [:permanent, :temporary] do
        assert {{:ok, :undefined}, _} =
                 with_supervisor(&none/0, fn pid ->
                   child = worker(:a, start: fn -> :ignore end, restart: restart)
                   {Supervisor.start_child(pid, child), Supervisor.which_children(pid)}
                 end)
      end
    end

    test "passes a third element on" do
      assert {:ok, {:pid, 1}, :more} =
               with_supervisor(&none/0, fn pid ->
                 start = fn ->
                   with {:ok, pid} <- Agent.start_link(fn -> 0 end), do: {:ok, pid, :more}
                 end

                 Supervisor.start_child(pid, worker(:a, start: start))
               end)
    end

    test "refuses a bad specification" do
      for spec <- [
            %{id: :a},
            %{start: {Worker, :start_link, [[]]}},
            %{id: :a, start: {"Worker", :start_link, []}},
            %{id: :a, start: {Worker, :start_link, []}, restart: :sometimes},
            %{id: :a, start: {Worker, :start_link, []}, shutdown: :slowly},
            %{id: :a, start: {Worker, :start_link, []}, significant: true},
            {:a, {Worker, :start_link, []}, :permanent, 1, :worker},
            {:a, {"Worker", :start_link, []}, :permanent, 1, :worker, []}
          ] do
        assert {:error, _} = with_supervisor(&none/0, &:supervisor.start_child(&1, spec))
      end
    end
  end

  describe "terminate_child" do
    test "ends the child and keeps its specification" do
      assert {:ok, [:a, :shutdown], [{:a, :undefined, :worker, [Worker]}], :ok} =
               with_supervisor(fn -> [worker(:a, trap_exit: true)] end, fn pid ->
                 result = Supervisor.terminate_child(pid, :a)
                 stopped = receive(do: ({:stopped, id, reason} -> [id, reason]))

                 {result, stopped, Supervisor.which_children(pid),
                  Supervisor.terminate_child(pid, :a)}
               end)
    end

    test "forgets a temporary child" do
      assert {:ok, [], {:error, :not_found}} =
               with_supervisor(fn -> [worker(:a, restart: :temporary)] end, fn pid ->
                 {Supervisor.terminate_child(pid, :a), Supervisor.which_children(pid),
                  Supervisor.restart_child(pid, :a)}
               end)
    end

    test "kills a child that does not leave in time" do
      assert {:ok, :killed} =
               with_supervisor(&none/0, fn pid ->
                 start = fn ->
                   {:ok,
                    spawn_link(fn ->
                      Process.flag(:trap_exit, true)
                      Process.sleep(:infinity)
                    end)}
                 end

                 {:ok, child} =
                   Supervisor.start_child(pid, worker(:a, start: start, shutdown: 10))

                 # Traps exits by now.
                 OOM.Test.Eventually.eventually(fn ->
                   Process.info(child, :trap_exit) == {:trap_exit, true}
                 end)

                 ref = Process.monitor(child)
                 result = Supervisor.terminate_child(pid, :a)
                 {result, receive(do: ({:DOWN, ^ref, _, _, reason} -> reason))}
               end)
    end

    test "of a child that is no longer linked, or is dead already" do
      assert {:ok, :ok, %{active: 0, specs: 2}} =
               with_supervisor(fn -> [worker(:a), worker(:b, restart: :transient)] end, fn pid ->
                 [{:b, b, _, _}, {:a, a, _, _}] = Supervisor.which_children(pid)
                 :sys.replace_state(pid, fn state -> Process.unlink(a) && state end)
                 ref = Process.monitor(b)
                 GenServer.cast(b, {:stop, :normal})
                 receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))

                 {Supervisor.terminate_child(pid, :a), Supervisor.terminate_child(pid, :b),
                  Supervisor.count_children(pid)}
               end)
    end

    test "refuses an unknown id" do
      assert {:error, :not_found} = with_supervisor(&none/0, &Supervisor.terminate_child(&1, :a))
    end
  end

  describe "restart_child" do
    test "starts a terminated child again" do
      assert {{:error, :running}, :ok, {:ok, {:pid, 1}}, %{active: 1}} =
               with_supervisor(fn -> [worker(:a)] end, fn pid ->
                 {Supervisor.restart_child(pid, :a), Supervisor.terminate_child(pid, :a),
                  Supervisor.restart_child(pid, :a), Supervisor.count_children(pid)}
               end)
    end

    test "tells why it did not start" do
      assert {{:error, :no}, [{:a, :undefined, _, _}]} =
               with_supervisor(fn -> [worker(:a, start: once(:ok, {:error, :no}))] end, fn pid ->
                 :ok = Supervisor.terminate_child(pid, :a)
                 {Supervisor.restart_child(pid, :a), Supervisor.which_children(pid)}
               end)
    end

    test "refuses an unknown id" do
      assert {:error, :not_found} = with_supervisor(&none/0, &Supervisor.restart_child(&1, :a))
    end
  end

  describe "delete_child" do
    test "deletes a child that does not run" do
      assert {{:error, :running}, :ok, :ok, [], {:error, :not_found}} =
               with_supervisor(fn -> [worker(:a)] end, fn pid ->
                 {Supervisor.delete_child(pid, :a), Supervisor.terminate_child(pid, :a),
                  Supervisor.delete_child(pid, :a), Supervisor.which_children(pid),
                  Supervisor.delete_child(pid, :a)}
               end)
    end
  end

  describe "get_childspec" do
    test "gives the specification as the user gave it" do
      assert {{:ok, spec}, _by_pid, {:error, :not_found}} =
               with_supervisor(fn -> [worker(:a, restart: :transient)] end, fn pid ->
                 [{:a, child, _, _}] = Supervisor.which_children(pid)

                 {:supervisor.get_childspec(pid, :a), :supervisor.get_childspec(pid, child),
                  :supervisor.get_childspec(pid, :b)}
               end)

      assert %{id: :a, restart: :transient, start: {Worker, :start_link, [_]}} = spec
    end

    test "the same for a child that was started later, in Erlang's form" do
      assert {:ok, %{id: :a, start: {Agent, :start_link, [:function]}, modules: [Agent]}} =
               with_supervisor(&none/0, fn pid ->
                 start = {Agent, :start_link, [fn -> 0 end]}
                 child = {:a, start, :transient, 5_000, :worker, [Agent]}
                 {:ok, _} = Supervisor.start_child(pid, child)
                 :supervisor.get_childspec(pid, :a)
               end)
    end

    test "the same for a temporary child, for which OTP keeps no arguments" do
      assert {{:ok, _}, {:ok, %{start: {Worker, :start_link, :undefined}}}} =
               with_supervisor(fn -> [worker(:a, restart: :temporary)] end, fn pid ->
                 {:ok, _} = Supervisor.start_child(pid, worker(:b, restart: :temporary))
                 {:supervisor.get_childspec(pid, :a), :supervisor.get_childspec(pid, :b)}
               end)
    end

    test "an OOM.child_spec too" do
      child = OOM.child_spec({Agent, fn -> 0 end}, priority: :low, id: :a)

      pid =
        start_supervised!(%{
          id: :sup,
          start: {OOM.Supervisor, :start_link, [[child], [strategy: :one_for_one]]}
        })

      assert {:ok, %{start: {Agent, :start_link, [_]}}} = :supervisor.get_childspec(pid, :a)
    end
  end

  test "a specification changed after OOM.child_spec/2 counts as it is now" do
    child =
      {Agent, fn -> 0 end}
      |> OOM.child_spec(priority: :low)
      |> Supervisor.child_spec(id: :renamed, restart: :temporary)

    pid =
      start_supervised!(%{
        id: :sup,
        start: {OOM.Supervisor, :start_link, [[child], [strategy: :one_for_one]]}
      })

    [{:renamed, worker, :worker, [Agent]}] = Supervisor.which_children(pid)
    assert {_, 250, _, _, _, ^pid, :renamed, options, _} = OOM.Workers.lookup(worker)
    assert options[:restart] == :temporary
  end

  test "OOM.child_spec/2 works under a plain supervisor" do
    children = [OOM.child_spec({Agent, fn -> 0 end}, priority: :low)]

    pid =
      start_supervised!(%{
        id: :sup,
        start: {Supervisor, :start_link, [children, [strategy: :one_for_one]]}
      })

    [{Agent, worker, :worker, [Agent]}] = Supervisor.which_children(pid)
    assert {_, 250, _, _, _, ^pid, Agent, _, _} = OOM.Workers.lookup(worker)
  end

  # The children's owner, the scenario's process, makes the children anew for each supervisor.
  defp with_supervisor(children, fun) do
    same(fn sup ->
      {:ok, pid} = sup.start_link(children.(), strategy: :one_for_one)
      fun.(pid)
    end)
  end

  defp none, do: []

  defp worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)

  # Runs `first` at the first start, and `others` afterwards.
  defp once(first, others) do
    counter = :counters.new(1, [])

    fn ->
      :counters.add(counter, 1, 1)
      if :counters.get(counter, 1) == 1, do: first, else: others
    end
  end
end
