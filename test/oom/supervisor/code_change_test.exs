defmodule OOM.Supervisor.CodeChangeTest do
  # A new version of the module's init/1, and a supervisor that lives on.
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  test "a new strategy counts from then on" do
    assert {:ok, [:a, :b]} =
             change(
               &init(&1, [worker(:a), worker(:b)], strategy: :one_for_one),
               &init(&1, [worker(:a), worker(:b)], strategy: :one_for_all),
               fn _pid ->
                 stop(started(:a))
                 Enum.map([:a, :b], &(started(&1) && &1))
               end
             )
  end

  test "a new intensity counts from then on" do
    assert {:ok, :shutdown} =
             change(
               &init(&1, [worker(:a)], strategy: :one_for_one, max_restarts: 5),
               &init(&1, [worker(:a)], strategy: :one_for_one, max_restarts: 0),
               fn pid ->
                 stop(started(:a))
                 receive(do: ({:EXIT, ^pid, reason} -> reason))
               end
             )
  end

  test "a running child goes on, and follows its new specification" do
    assert {:ok, {true, {:ok, %{restart: :temporary, shutdown: :brutal_kill}}, []}} =
             change(
               &init(&1, [worker(:a)], strategy: :one_for_one),
               &init(&1, [worker(:a, restart: :temporary, shutdown: :brutal_kill)],
                 strategy: :one_for_one
               ),
               fn pid ->
                 a = started(:a)
                 [{:a, now, _, _}] = Supervisor.which_children(pid)
                 {:ok, spec} = :supervisor.get_childspec(pid, :a)
                 ref = Process.monitor(a)
                 stop(a)
                 receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))

                 {now == a, {:ok, Map.take(spec, [:restart, :shutdown])},
                  Supervisor.which_children(pid)}
               end
             )
  end

  test "a child that the new version does not name is kept, as the first" do
    assert {:ok, [:b, :a, :c]} =
             change(
               &init(&1, [worker(:a), worker(:b)], strategy: :one_for_one),
               &init(&1, [worker(:c)], strategy: :one_for_one),
               fn pid ->
                 for {id, _, _, _} <- Supervisor.which_children(pid), do: id
               end
             )
  end

  test "ignore changes nothing" do
    assert {:ok, %{active: 1}} =
             change(
               &init(&1, [worker(:a)], strategy: :one_for_one),
               fn _ -> :ignore end,
               &Supervisor.count_children/1
             )
  end

  describe "a refused change changes nothing:" do
    for {what, flags, children} <- [
          {"a strategy that there is not", [strategy: :one_for_none], [:a, :b]},
          {"a bad intensity", [strategy: :one_for_all, max_restarts: :x], [:a, :b]},
          {"an id twice", [strategy: :one_for_all], [:a, :a]}
        ] do
      @tag flags: flags, children: children
      test what, %{flags: flags, children: children} do
        assert {{:error, _}, {[:a], %{active: 2}}} =
                 change(
                   &init(&1, [worker(:a), worker(:b)], strategy: :one_for_one),
                   &init(&1, Enum.map(children, fn id -> worker(id) end), flags),
                   fn pid ->
                     b = started(:b)
                     stop(started(:a))
                     a = started(:a)
                     counts = Supervisor.count_children(pid)
                     # Held children go by the old strategy.
                     for(pid <- [a, b], do: Process.alive?(pid)) |> Enum.all?() || raise("ended")
                     {[:a], counts}
                   end
                 )
      end
    end

    test "what init/1 should not return" do
      assert {{:error, _}, %{active: 1}} =
               change(
                 &init(&1, [worker(:a)], strategy: :one_for_one),
                 fn _ -> :what end,
                 &Supervisor.count_children/1
               )
    end
  end

  test "the template of a simple_one_for_one changes" do
    template = fn restart ->
      fn _ ->
        spec = %{id: :a, start: {Worker, :start_link, []}, restart: restart}
        {:ok, {%{strategy: :simple_one_for_one}, [spec]}}
      end
    end

    assert {:ok, {{:ok, {:pid, 1}}, {:ok, %{restart: :temporary}}}} =
             change(template.(:permanent), template.(:temporary), fn pid ->
               {:supervisor.start_child(pid, [[id: :a, owner: self()]]),
                :supervisor.get_childspec(pid, :a)}
             end)
  end

  # Returns `{result of the change, result of fun}`.
  defp change(before, later, fun) do
    same(fn sup ->
      owner = self()
      {:ok, version} = Agent.start_link(fn -> before end)

      # The children's owner is the scenario's process, even where another process runs init/1.
      init = fn ->
        Process.put(:owner, owner)
        Agent.get(version, & &1).(sup)
      end

      {:ok, pid} = Trees.of(sup).start_link(init)
      Agent.update(version, fn _ -> later end)
      :ok = :sys.suspend(pid)
      changed = :sys.change_code(pid, Trees.of(sup), nil, [])
      :ok = :sys.resume(pid)
      {changed, fun.(pid)}
    end)
  end

  defp init(sup, children, options) do
    with {:ok, {flags, specs}} <- sup.init(children, options), do: {:ok, {flags, specs}}
  end

  defp worker(id, options \\ []),
    do: Worker.child_spec([id: id, owner: Process.get(:owner)] ++ options)

  defp started(id), do: receive(do: ({:started, ^id, pid} -> pid))
  defp stop(pid), do: GenServer.cast(pid, {:stop, :crash})
end
