defmodule OOM.Supervisor.StartTest do
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  describe "start_link/2 with children" do
    test "starts them in order and links" do
      assert {[:ok, :a, :b], true} =
               same(fn sup ->
                 {result, pid} = sup.start_link([worker(:a), worker(:b)], strategy: :one_for_one)
                 started = for _ <- 1..2, do: receive(do: ({:started, id, _} -> id))
                 {[result | started], pid in elem(Process.info(self(), :links), 1)}
               end)
    end

    test "takes no children" do
      assert {:ok, {:pid, 1}} = same(& &1.start_link([], strategy: :one_for_one))
    end

    test "fails without a strategy" do
      assert {_error, _message} = same(fn sup -> raised(fn -> sup.start_link([], []) end) end)
    end

    test "refuses an unknown strategy" do
      assert {:error, {:supervisor_data, {:invalid_strategy, :one_for_none}}} =
               same(& &1.start_link([], strategy: :one_for_none))
    end

    test "refuses bad flags" do
      for flag <- [max_restarts: -1, max_seconds: -1, max_restarts: :x] do
        assert {:error, {:supervisor_data, _}} =
                 same(& &1.start_link([], [{:strategy, :one_for_one}, flag]))
      end
    end

    test "refuses duplicate ids" do
      assert {:error, {:start_spec, {:duplicate_child_name, :a}}} =
               same(& &1.start_link([worker(:a), worker(:a)], strategy: :one_for_one))
    end

    test "refuses what is no child" do
      for child <- [
            %{id: :a},
            %{start: {Worker, :start_link, []}},
            %{id: :a, start: :none},
            %{id: :a, start: {"Worker", :start_link, []}},
            %{id: :a, start: {Worker, :start_link, :no_list}},
            %{id: :a, start: {Worker, "start_link", []}},
            Map.put(spec(), :restart, :sometimes),
            Map.put(spec(), :shutdown, -1),
            Map.put(spec(), :type, :boss),
            Map.put(spec(), :modules, :none),
            Map.put(spec(), :significant, true)
          ] do
        assert {:error, _} = same(& &1.start_link([child], strategy: :one_for_one))
      end
    end

    test "raises for a child that names no module" do
      for child <- [NoSuchModule, {NoSuchModule, []}, Enum, "child", {1, 2}] do
        assert {ArgumentError, message} =
                 same(fn sup ->
                   raised(fn -> sup.start_link([child], strategy: :one_for_one) end)
                 end)

        assert is_binary(message)
      end
    end

    test "ends the started children when a later one fails, last first" do
      assert {{:error, {:shutdown, {:failed_to_start_child, :c, :no}}}, [:b, :a]} =
               same(fn sup ->
                 children = [
                   worker(:a, trap_exit: true),
                   worker(:b, trap_exit: true),
                   worker(:c, start: fn -> {:error, :no} end)
                 ]

                 result = sup.start_link(children, strategy: :one_for_one)
                 stopped = for _ <- 1..2, do: receive(do: ({:stopped, id, :shutdown} -> id))
                 {result, stopped}
               end)
    end

    test "tells why a child did not start" do
      for {start, why} <- [
            {fn -> raise "no" end,
             {:EXIT, {{RuntimeError, %{message: "no", __exception__: true}}, :stacktrace}}},
            {fn -> exit(:no) end, {:EXIT, :no}},
            {fn -> throw(:no) end, :no},
            {fn -> :no end, :no},
            {fn -> {:ok, :no_pid} end, {:ok, :no_pid}}
          ] do
        assert {:error, {:shutdown, {:failed_to_start_child, :a, ^why}}} =
                 same(& &1.start_link([worker(:a, start: start)], strategy: :one_for_one))
      end
    end

    test "a missing start function is reported as such" do
      child = %{id: :a, start: {NoSuchModule, :start_link, []}}

      assert {:error, {:shutdown, {:failed_to_start_child, :a, {:EXIT, {:undef, :stacktrace}}}}} =
               same(& &1.start_link([child], strategy: :one_for_one))
    end

    test "a child may be ignored" do
      assert [{:a, :undefined, :worker, [Worker]}] =
               same(fn sup ->
                 children = [worker(:a, start: fn -> :ignore end)]
                 {:ok, pid} = sup.start_link(children, strategy: :one_for_one)
                 Supervisor.which_children(pid)
               end)
    end

    test "a child may return a third element" do
      assert {[{:a, {:pid, 1}, :worker, [Worker]}], 1} =
               same(fn sup ->
                 owner = self()

                 start = fn ->
                   with {:ok, pid} <- Agent.start_link(fn -> owner end), do: {:ok, pid, :more}
                 end

                 {:ok, pid} = sup.start_link([worker(:a, start: start)], strategy: :one_for_one)
                 {Supervisor.which_children(pid), Supervisor.count_children(pid).active}
               end)
    end
  end

  describe "names" do
    test "local" do
      assert {true, {:error, {:already_started, {:pid, 1}}}} =
               same(fn sup ->
                 options = [strategy: :one_for_one, name: :named_supervisor]
                 {:ok, pid} = sup.start_link([], options)
                 {Process.whereis(:named_supervisor) == pid, sup.start_link([], options)}
               end)
    end

    test "global" do
      assert {true, {:error, {:already_started, {:pid, 1}}}} =
               same(fn sup ->
                 options = [strategy: :one_for_one, name: {:global, {sup, :tree}}]
                 {:ok, pid} = sup.start_link([], options)
                 {:global.whereis_name({sup, :tree}) == pid, sup.start_link([], options)}
               end)
    end

    test "via" do
      start_supervised!({Registry, keys: :unique, name: __MODULE__.Registry})

      assert {true, %{active: 0}, {:error, {:already_started, {:pid, 1}}}} =
               same(fn sup ->
                 name = {:via, Registry, {__MODULE__.Registry, sup}}
                 {:ok, pid} = sup.start_link([], strategy: :one_for_one, name: name)

                 {GenServer.whereis(name) == pid, Supervisor.count_children(name),
                  sup.start_link([], strategy: :one_for_one, name: name)}
               end)
    end

    test "nil is no name" do
      assert {:ok, {:pid, 1}} = same(& &1.start_link([], strategy: :one_for_one, name: nil))
    end

    test "anything else raises" do
      for name <- ["tree", {:local, :tree}, {:via, "module", :tree}, 1] do
        assert {ArgumentError, "expected :name option to be one of the following:" <> _} =
                 same(fn sup ->
                   raised(fn -> sup.start_link([], strategy: :one_for_one, name: name) end)
                 end)
      end
    end
  end

  describe "start_link/3 with a module" do
    test "calls its init/1 with the argument" do
      assert [{:a, {:pid, 1}, :worker, [Worker]}] =
               same(fn sup ->
                 child = worker(:a)

                 {:ok, pid} =
                   Trees.of(sup).start_link(fn -> sup.init([child], strategy: :one_for_one) end)

                 Supervisor.which_children(pid)
               end)
    end

    test "returns from init/2 what Supervisor.init/2 returns" do
      for options <- [[strategy: :one_for_one], [strategy: :rest_for_one, max_restarts: 7]] do
        assert OOM.Supervisor.init([worker(:a)], options) ==
                 Supervisor.init([worker(:a)], options)
      end
    end

    test "takes what Supervisor.init/2 returns" do
      assert %{active: 1} =
               same(fn sup ->
                 child = worker(:a)
                 init = fn -> Supervisor.init([child], strategy: :one_for_one) end
                 {:ok, pid} = Trees.of(sup).start_link(init)
                 Supervisor.count_children(pid)
               end)
    end

    test "takes Erlang's flags and specifications, as tuples or maps" do
      owner = self()
      start = {Worker, :start_link, [[id: :a, owner: owner]]}

      for {flags, spec} <- [
            {{:one_for_one, 3, 5}, {:a, start, :permanent, 5_000, :worker, [Worker]}},
            {%{}, %{id: :a, start: start}},
            {%{strategy: :rest_for_one, intensity: 1, period: 1}, %{id: :a, start: start}}
          ] do
        assert [{:a, {:pid, 1}, :worker, [Worker]}] =
                 same(fn sup ->
                   {:ok, pid} = Trees.of(sup).start_link(fn -> {:ok, {flags, [spec]}} end)
                   Supervisor.which_children(pid)
                 end)
      end
    end

    test "runs a template for any number of children" do
      assert {{:ok, {:pid, 1}}, {:ok, {:pid, 2}}, %{active: 2, specs: 1}, _, _, _, _} =
               same(fn sup ->
                 template = %{id: :a, start: {Worker, :start_link, []}}
                 init = fn -> {:ok, {{:simple_one_for_one, 3, 5}, [template]}} end
                 {:ok, pid} = Trees.of(sup).start_link(init)
                 one = :supervisor.start_child(pid, [[id: :one, owner: self()]])

                 {:ok, other_pid} =
                   other = :supervisor.start_child(pid, [[id: :b, owner: self()]])

                 {one, other, Supervisor.count_children(pid),
                  :supervisor.terminate_child(pid, other_pid),
                  :supervisor.terminate_child(pid, :a), Supervisor.which_children(pid),
                  :supervisor.get_childspec(pid, :a)}
               end)
    end

    test "passes on that init/1 ignores" do
      assert :ignore = same(&Trees.of(&1).start_link(fn -> :ignore end))
    end

    test "names the module whose init/1 returns something else" do
      for other <- [:what, {:ok, :what}, {:error, :what}, {:ok, {:what, []}}, {:ok, {%{}, :what}}] do
        assert {:error, _} = same(&Trees.of(&1).start_link(fn -> other end))
      end
    end

    test "passes on that init/1 raises" do
      assert {:error, {{RuntimeError, _}, :stacktrace}} =
               same(&Trees.of(&1).start_link(fn -> raise "no" end))
    end

    test "takes a name" do
      assert %{active: 0} =
               same(fn sup ->
                 init = fn -> sup.init([], strategy: :one_for_one) end
                 {:ok, _} = Trees.of(sup).start_link(init, name: :named_tree)
                 Supervisor.count_children(:named_tree)
               end)
    end
  end

  describe "use" do
    test "makes the same child_spec/1" do
      assert %{
               id: :tree,
               restart: :transient,
               start: {:tree, :start_link, [:arg]},
               type: :supervisor
             } = same(&Trees.of(&1).child_spec(:arg))
    end

    test "nests under another supervisor" do
      assert [{:tree, {:pid, 1}, :supervisor, [:tree]}] =
               same(fn sup ->
                 child = worker(:a)
                 init = fn -> sup.init([child], strategy: :one_for_one) end
                 {:ok, pid} = sup.start_link([{Trees.of(sup), init}], strategy: :one_for_one)
                 Supervisor.which_children(pid)
               end)
    end
  end

  describe "options under :oom" do
    test "a wrong one raises, wherever it is given" do
      for {oom, message} <- [
            {[priority: :lowest],
             "expected priority to be :low, :normal, :high, :protected or an integer from 0 to " <>
               "1000, got: :lowest"},
            {[priority: -1],
             "expected priority to be :low, :normal, :high, :protected or an integer from 0 to " <>
               "1000, got: -1"},
            {[prio: :low],
             "unknown option :prio, expected one of :priority, :max_heap_size, :backoff, :unit, " <>
               ":max_kills, :handle_pressure, :shed, got: [prio: :low]"},
            {[handle_pressure: nil],
             "expected :handle_pressure to be one of true, false, got: nil"},
            {[max_kills: 0], "expected :max_kills to be a positive integer or :infinity, got: 0"},
            {[max_heap_size: 0],
             "expected :max_heap_size to be bytes, {:percent_of_limit, p} with 0 < p <= 100, :infinity, " <>
               "or one of these as %{size: size, include_shared_binaries: boolean}, got: 0"},
            {[backoff: [initial_ms: 0]],
             "expected :backoff to be [initial_ms: i, max_ms: m] with 0 < i <= m, got: " <>
               "[initial_ms: 0]"},
            {:low, "expected :oom to be a keyword list, got: :low"}
          ] do
        options = [strategy: :one_for_one, oom: oom]

        assert_raise ArgumentError, message, fn -> OOM.Supervisor.start_link([], options) end
        assert_raise ArgumentError, message, fn -> OOM.Supervisor.init([], options) end

        assert_raise ArgumentError, message, fn ->
          OOM.Supervisor.start_link(Trees.OfOOM, fn -> :ignore end, oom: oom)
        end
      end
    end

    test "give the workers their rank; the child's own options win" do
      children = [worker(:a), OOM.child_spec(worker(:b), priority: 7)]
      options = [strategy: :one_for_one, oom: [priority: :low]]

      pid =
        start_supervised!(%{id: :sup, start: {OOM.Supervisor, :start_link, [children, options]}})

      assert %{a: 250, b: 7} = ranks(pid)
      {:ok, _} = Supervisor.start_child(pid, worker(:c))
      assert %{c: 250} = ranks(pid)
    end

    test "of init/2 win over those of start_link/3" do
      child = worker(:a)

      init = fn ->
        OOM.Supervisor.init([child], strategy: :one_for_one, oom: [priority: :high])
      end

      options = [oom: [priority: :low]]

      pid = start_supervised!(%{id: :sup, start: {Trees.OfOOM, :start_link, [init, options]}})
      assert %{a: 750} = ranks(pid)
    end

    test "of start_link/3 count for a module that knows nothing of OOM" do
      child = worker(:a)
      init = fn -> Supervisor.init([child], strategy: :one_for_one) end

      start = {Trees.OfOOM, :start_link, [init, [oom: [priority: :protected]]]}
      pid = start_supervised!(%{id: :sup, start: start})
      assert %{a: :protected} = ranks(pid)
    end
  end

  test "supervisors below are not registered as workers" do
    tree = %{
      id: :tree,
      type: :supervisor,
      start: {OOM.Supervisor, :start_link, [[worker(:a)], [strategy: :one_for_one]]}
    }

    pid =
      start_supervised!(%{
        id: :sup,
        start: {OOM.Supervisor, :start_link, [[tree], [strategy: :one_for_one]]}
      })

    assert [{:tree, tree, :supervisor, _}] = Supervisor.which_children(pid)
    assert OOM.Workers.lookup(tree) == nil
    assert %{a: 500} = ranks(tree)
  end

  defp ranks(supervisor) do
    for {id, pid, _, _} <- Supervisor.which_children(supervisor),
        into: %{},
        do: {id, pid |> OOM.Workers.lookup() |> elem(1)}
  end

  defp worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)
  defp spec, do: worker(:a)

  defp raised(fun) do
    fun.()
  rescue
    error -> {error.__struct__, Exception.message(error)}
  end
end
