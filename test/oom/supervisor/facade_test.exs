defmodule OOM.Supervisor.FacadeTest do
  # Replacing `Supervisor` in a module needs no more than `alias OOM.Supervisor`.
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  test "has every function, macro and type of Supervisor" do
    deprecated = Enum.map(Supervisor.__info__(:deprecated), &elem(&1, 0))

    assert (Supervisor.__info__(:functions) -- deprecated) -- OOM.Supervisor.__info__(:functions) ==
             []

    assert Supervisor.__info__(:macros) -- OOM.Supervisor.__info__(:macros) == []

    # Where the installation has them; those that came after Elixir 1.14 are Elixir's to name.
    with {:ok, theirs} <- Code.Typespec.fetch_types(Supervisor),
         {:ok, ours} <- Code.Typespec.fetch_types(OOM.Supervisor) do
      later = [:auto_shutdown, :module_spec, :child_spec_overrides]
      names = &for({kind, {name, _, _}} <- &1, kind != :typep, do: name)
      assert (names.(theirs) -- names.(ours)) -- later == []
    end
  end

  describe "the life of a child, through the module itself, of a supervisor known" do
    for how <- [:pid, :local, :node, :global, :via, :via_global] do
      @tag how: how
      test "by #{how}", %{how: how} do
        if how == :via, do: start_supervised!({Registry, keys: :unique, name: __MODULE__.Names})

        assert [
                 {:ok, {:pid, 1}},
                 {:error, {:already_started, {:pid, 1}}},
                 {:error, :running},
                 {:error, :running},
                 [{:a, {:pid, 1}, :worker, [Worker]}],
                 %{active: 1, specs: 1, supervisors: 0, workers: 1},
                 :ok,
                 {:error, :already_present},
                 [{:a, :undefined, :worker, [Worker]}],
                 {:ok, {:pid, 2}},
                 :ok,
                 :ok,
                 {:error, :not_found},
                 :ok,
                 {:EXIT, {{:noproc, _}, :stacktrace}}
               ] =
                 same(fn sup ->
                   name = name(how, sup)
                   options = if name, do: [name: name], else: []
                   {:ok, pid} = sup.start_link([], [strategy: :one_for_one] ++ options)
                   ref = if how == :node, do: {name, node()}, else: name || pid
                   a = worker(:a)

                   [
                     sup.start_child(ref, a),
                     sup.start_child(ref, a),
                     sup.restart_child(ref, :a),
                     sup.delete_child(ref, :a),
                     sup.which_children(ref),
                     sup.count_children(ref),
                     sup.terminate_child(ref, :a),
                     sup.start_child(ref, a),
                     sup.which_children(ref),
                     sup.restart_child(ref, :a),
                     sup.terminate_child(ref, :a),
                     sup.delete_child(ref, :a),
                     sup.terminate_child(ref, :a),
                     sup.stop(ref, :shutdown, 5_000),
                     catch_call(fn -> sup.which_children(pid) end)
                   ]
                 end)
      end
    end
  end

  describe "child_spec/2" do
    test "of a module, a tuple, a map, and with overrides" do
      for {child, overrides} <- [
            {Agent, []},
            {{Agent, :arg}, [id: :a, restart: :transient, shutdown: :brutal_kill]},
            {%{id: :a, start: {Agent, :start_link, []}}, [type: :supervisor, modules: :dynamic]},
            {%{id: :a, significant: true}, [start: {Agent, :start, []}]}
          ] do
        assert %{id: _} = same(& &1.child_spec(child, overrides))
      end
    end

    test "refuses the same in the same words" do
      for {child, overrides} <- [
            {NoSuchModule, []},
            {Enum, []},
            {"child", []},
            {Agent, [unknown: 1]},
            {{:a, {Agent, :start_link, []}, :permanent, 5_000, :worker, [Agent]}, []}
          ] do
        assert {ArgumentError, message} = same(&raised(fn -> &1.child_spec(child, overrides) end))
        assert is_binary(message)
      end
    end
  end

  describe "init/2" do
    test "gives the same flags and specifications" do
      for options <- [
            [strategy: :one_for_one],
            [strategy: :one_for_all, max_restarts: 1, max_seconds: 2],
            [strategy: :unknown, max_restarts: :x, unknown: true]
          ] do
        assert {:ok, {%{strategy: _}, [%{id: Agent}, {:old, _, _, _, _, _}]}} =
                 same(fn sup ->
                   old = {:old, {Agent, :start_link, []}, :permanent, 5_000, :worker, [Agent]}
                   {:ok, {flags, specs}} = sup.init([{Agent, :arg}, old], options)
                   {:ok, {Map.delete(flags, :oom), specs}}
                 end)
      end
    end

    test "refuses the same in the same words" do
      for {children, options} <- [{[], []}, {:none, [strategy: :one_for_one]}, {[], :none}] do
        assert {error, _} = same(&raised(fn -> &1.init(children, options) end))
        assert error in [ArgumentError, FunctionClauseError]
      end
    end
  end

  describe "use" do
    test "takes every option of a child specification" do
      assert %{
               id: :own,
               restart: :temporary,
               shutdown: 7,
               start: {:m, :f, []},
               modules: [:m],
               type: :supervisor
             } =
               same(fn sup ->
                 using(sup, """
                 use #{inspect(sup)}, id: :own, restart: :temporary, shutdown: 7,
                   start: {:m, :f, []}, modules: [:m]
                 """).child_spec(:arg)
               end)
    end

    test "child_spec/1 can be overridden, and calls super" do
      assert %{id: {:tree, :arg}} =
               same(fn sup ->
                 module =
                   using(sup, """
                   use #{inspect(sup)}
                   def child_spec(arg), do: %{super(arg) | id: {:tree, arg}}
                   """)

                 Map.take(module.child_spec(:arg), [:id])
               end)
    end

    test "the old worker and supervisor functions are there, as ever" do
      assert {:a, {Agent, :start_link, [:arg]}, :permanent, 5_000, :worker, [Agent]} =
               same(fn sup ->
                 using(sup, """
                 use #{inspect(sup)}
                 def old, do: worker(Agent, [:arg], id: :a)
                 """).old()
               end)
    end

    test "an unknown option is refused by child_spec/1" do
      assert {ArgumentError, _} =
               same(fn sup ->
                 module = using(sup, "use #{inspect(sup)}, unknown: 1")
                 raised(fn -> module.child_spec(:arg) end)
               end)
    end
  end

  describe "auto_shutdown among the options" do
    # Supervisor takes it from Elixir 1.15 on.
    if Version.match?(System.version(), ">= 1.15.0") do
      test "is the same" do
        assert {:EXIT, :shutdown} =
                 same(&significant(&1, fn sup, c, o -> sup.start_link(c, o) end))
      end
    end

    test "of start_link/2" do
      assert {:EXIT, :shutdown} =
               significant(OOM.Supervisor, fn sup, c, o -> sup.start_link(c, o) end)
    end

    test "of init/2" do
      assert {:EXIT, :shutdown} =
               significant(OOM.Supervisor, fn sup, c, o ->
                 Trees.of(sup).start_link(fn -> sup.init(c, o) end)
               end)
    end

    test "a wrong one is refused" do
      Process.flag(:trap_exit, true)

      assert {:error, {:supervisor_data, {:invalid_auto_shutdown, :sometimes}}} =
               OOM.Supervisor.start_link([], strategy: :one_for_one, auto_shutdown: :sometimes)
    end
  end

  defp significant(sup, start) do
    Process.flag(:trap_exit, true)
    child = worker(:a, restart: :transient, significant: true)
    {:ok, pid} = start.(sup, [child], strategy: :one_for_one, auto_shutdown: :any_significant)
    receive(do: ({:started, :a, a} -> GenServer.cast(a, {:stop, :normal})))
    receive(do: ({:EXIT, ^pid, reason} -> {:EXIT, reason}))
  end

  defp using(sup, body) do
    # `worker/3` of `Supervisor.Spec` is deprecated, and compiling prints a warning.
    name = Module.concat(__MODULE__, "Made#{System.unique_integer([:positive])}")

    ExUnit.CaptureIO.capture_io(:stderr, fn ->
      Code.compile_string("""
      defmodule #{inspect(name)} do
        #{body}
        def start_link(arg), do: #{inspect(sup)}.start_link(__MODULE__, arg)
        @impl true
        def init(arg), do: arg
      end
      """)
    end)

    name
  end

  defp name(:pid, _sup), do: nil
  defp name(how, _sup) when how in [:local, :node], do: :"facade_#{how}"
  defp name(:global, sup), do: {:global, {__MODULE__, sup}}
  defp name(:via, sup), do: {:via, Registry, {__MODULE__.Names, sup}}
  defp name(:via_global, sup), do: {:via, :global, {__MODULE__, :via, sup}}

  defp worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)

  defp catch_call(fun) do
    fun.()
  catch
    :exit, {reason, {GenServer, :call, _}} -> {:EXIT, {{reason, :call}, :stacktrace}}
  end

  defp raised(fun) do
    fun.()
  rescue
    # The message names the module.
    error in FunctionClauseError -> {FunctionClauseError, {error.function, error.arity}}
    error -> {error.__struct__, Exception.message(error)}
  end
end
