defmodule OOM.Supervisor.ShutdownTest do
  use ExUnit.Case, async: true

  import OOM.Test.Parity

  alias OOM.Test.Worker

  test "ends the children last first" do
    assert {:ok, [:c, :b, :a]} =
             same(fn sup ->
               children = for id <- [:a, :b, :c], do: worker(id)
               {:ok, pid} = sup.start_link(children, strategy: :one_for_one)
               {Supervisor.stop(pid), stopped()}
             end)
  end

  test "stop/3 ends with the reason given" do
    for reason <- [:normal, :shutdown, {:shutdown, :done}, :other] do
      assert {:ok, ^reason, [:a]} =
               same(fn sup ->
                 {:ok, pid} = sup.start_link([worker(:a)], strategy: :one_for_one)
                 result = Supervisor.stop(pid, reason, 5_000)
                 {result, receive(do: ({:EXIT, ^pid, reason} -> reason)), stopped()}
               end)
    end
  end

  test "stop/3 works by name" do
    assert {:ok, nil} =
             same(fn sup ->
               {:ok, _} = sup.start_link([], strategy: :one_for_one, name: :stopped_by_name)
               {Supervisor.stop(:stopped_by_name), Process.whereis(:stopped_by_name)}
             end)
  end

  test "ends with its parent" do
    assert {:shutdown, [:b, :a]} =
             same(fn sup ->
               children = [worker(:a), worker(:b)]

               nested = %{
                 id: :nested,
                 type: :supervisor,
                 start: {sup, :start_link, [children, [strategy: :one_for_one]]}
               }

               {:ok, pid} = sup.start_link([nested], strategy: :one_for_one)
               [{:nested, nested, _, _}] = Supervisor.which_children(pid)
               ref = Process.monitor(nested)
               :ok = Supervisor.stop(pid)
               {receive(do: ({:DOWN, ^ref, _, _, reason} -> reason)), stopped()}
             end)
  end

  test "a nested supervisor that gives up is restarted by the one above" do
    assert {:shutdown, true} =
             same(fn sup ->
               nested = %{
                 id: :nested,
                 type: :supervisor,
                 start:
                   {sup, :start_link, [[worker(:a)], [strategy: :one_for_one, max_restarts: 0]]}
               }

               {:ok, pid} = sup.start_link([nested], strategy: :one_for_one)
               [{:nested, before, _, _}] = Supervisor.which_children(pid)
               ref = Process.monitor(before)
               worker = receive(do: ({:started, :a, pid} -> pid))
               GenServer.cast(worker, {:stop, :crash})
               reason = receive(do: ({:DOWN, ^ref, _, _, reason} -> reason))
               again = receive(do: ({:started, :a, pid} -> pid))
               {reason, is_pid(again) and again != worker}
             end)
  end

  test "a nested supervisor that is killed is restarted at once" do
    assert true =
             same(fn sup ->
               nested = %{
                 id: :nested,
                 type: :supervisor,
                 start: {sup, :start_link, [[worker(:a)], [strategy: :one_for_one]]}
               }

               {:ok, pid} = sup.start_link([nested], strategy: :one_for_one)
               [{:nested, before, _, _}] = Supervisor.which_children(pid)
               ref = Process.monitor(before)
               Process.exit(before, :kill)
               receive(do: ({:DOWN, ^ref, _, _, :killed} -> :ok))
               [{:nested, again, _, _}] = Supervisor.which_children(pid)
               is_pid(again) and again != before
             end)
  end

  defp worker(id), do: Worker.child_spec(id: id, owner: self(), trap_exit: true)

  defp stopped do
    receive do
      {:stopped, id, _reason} -> [id | stopped()]
    after
      0 -> []
    end
  end
end
