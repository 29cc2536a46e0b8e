defmodule OOM.Supervisor.SaslTest do
  # The reports of a supervisor, event by event, as a handler behind all filters sees them.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually
  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  setup do
    config = :logger.get_primary_config()
    # From Elixir 1.15 on, the translator is a filter before all handlers, and drops such reports.
    filters = Keyword.delete(config.filters, :logger_translator)
    :ok = :logger.set_primary_config(%{config | level: :all, filters: filters})
    on_exit(fn -> :logger.set_primary_config(config) end)
  end

  # Runs in the process that logs, and sends the event on to the process that asked for the reports.
  @doc false
  def log(event, %{config: %{to: to}}), do: send(to, {:logged, self(), event})

  test "progress of the children, in start order" do
    assert [
             {:progress, %{mfargs: {Worker, :start_link, [_]}}},
             {:progress, %{mfargs: {Worker, :start_link, [_]}}}
           ] =
             reports(fn sup ->
               {:ok, pid} = sup.start_link([worker(:a)], strategy: :one_for_one)
               {:ok, _} = Supervisor.start_child(pid, worker(:b, restart: :temporary))
               pid
             end)
  end

  for restart <- [:permanent, :transient, :temporary], added <- [:first, :later] do
    test "the crash of a #{restart} child, there at #{added}" do
      child = fn -> worker(:a, restart: unquote(restart)) end

      assert [
               {:progress, _},
               {:child_terminated, %{id: :a, mfargs: {Worker, :start_link, _}}} | _
             ] =
               reports(fn sup ->
                 {:ok, pid} =
                   if unquote(added == :first) do
                     sup.start_link([child.()], strategy: :one_for_one)
                   else
                     {:ok, pid} = sup.start_link([], strategy: :one_for_one)
                     {:ok, _} = Supervisor.start_child(pid, child.())
                     {:ok, pid}
                   end

                 crash(:a)

                 if unquote(restart == :temporary),
                   do: eventually(fn -> Supervisor.which_children(pid) == [] end),
                   else: started(:a)

                 pid
               end)
    end
  end

  for reason <- [:normal, :shutdown, {:shutdown, :done}, :killed] do
    @tag reason: reason
    test "the end of a permanent child with #{inspect(reason)}", %{reason: reason} do
      assert [{:progress, _}, {:child_terminated, %{reason: ^reason}}, {:progress, _}] =
               reports(fn sup ->
                 {:ok, pid} = sup.start_link([worker(:a)], strategy: :one_for_one)
                 crash(:a, reason)
                 started(:a)
                 pid
               end)
    end
  end

  test "a child that does not start" do
    assert [{:start_error, %{reason: :no}}] =
             reports(fn sup ->
               children = [worker(:a, start: fn -> {:error, :no} end)]
               {:error, _} = sup.start_link(children, strategy: :one_for_one)

               # From OTP 26 on, the supervisor's end sends no message to the process that started the
               # supervisor.
               receive do
                 {:logged, pid, _event} = logged ->
                   send(self(), logged)
                   pid
               end
             end)
  end

  test "more restarts than allowed" do
    assert [
             {:progress, _},
             {:child_terminated, %{reason: :crash}},
             {:shutdown, %{reason: :reached_max_restart_intensity}}
           ] =
             reports(fn sup ->
               {:ok, pid} = sup.start_link([worker(:a)], strategy: :one_for_one, max_restarts: 0)

               crash(:a)
               receive(do: ({:EXIT, ^pid, :shutdown} -> pid))
             end)
  end

  test "a child that has to be killed, one that ends otherwise" do
    assert [{:progress, _}, {:progress, _}, {:shutdown_error, _}, {:shutdown_error, _}] =
             reports(fn sup ->
               deaf = fn ->
                 {:ok,
                  :proc_lib.spawn_link(fn ->
                    Process.flag(:trap_exit, true)
                    Process.sleep(:infinity)
                  end)}
               end

               own = fn ->
                 {:ok,
                  :proc_lib.spawn_link(fn ->
                    Process.flag(:trap_exit, true)
                    receive(do: ({:EXIT, _, _} -> exit({:shutdown, :in_my_way})))
                  end)}
               end

               children = [
                 worker(:a, start: deaf, shutdown: 50),
                 worker(:b, start: own, shutdown: 5_000)
               ]

               {:ok, pid} = sup.start_link(children, strategy: :one_for_one)
               traps = for {_, pid, _, _} <- Supervisor.which_children(pid), do: pid

               eventually(fn ->
                 Enum.all?(traps, &(Process.info(&1, :trap_exit) == {:trap_exit, true}))
               end)

               :ok = Supervisor.terminate_child(pid, :a)
               :ok = Supervisor.terminate_child(pid, :b)
               pid
             end)
  end

  for strategy <- [:one_for_all, :rest_for_one] do
    test "a kill of two children under #{strategy}" do
      assert [_, _, _, {:child_terminated, %{id: :a, reason: :killed}} | _] =
               reports(fn sup ->
                 children = for id <- [:a, :b, :c], do: worker(id)
                 {:ok, pid} = sup.start_link(children, strategy: unquote(strategy))
                 pids = for id <- [:a, :b, :c], do: started(id)
                 # Both exits have arrived before the supervisor looks at the first.
                 :ok = :sys.suspend(pid)
                 for worker <- Enum.take(pids, 2), do: kill(worker)
                 :ok = :sys.resume(pid)
                 for id <- [:a, :b, :c], do: started(id)
                 pid
               end)
    end
  end

  # Under `Supervisor` the child is back by then.
  test "a supervisor that ends while a killed child waits for its restart tells why it ended" do
    id = :sasl_waiting
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{to: self()}})
    {:ok, pid} = OOM.Supervisor.start_link([worker(:a)], strategy: :one_for_one)
    kill(started(:a))
    :ok = Supervisor.stop(pid)
    :ok = :logger.remove_handler(id)
    assert [{:progress, _}, {:shutdown_error, %{reason: :killed}}] = logged(pid)
  end

  test "a crash of the supervisor itself" do
    for ask <- [&GenServer.call(&1, :what), &GenServer.cast(&1, :what)] do
      assert {:EXIT, {:function_clause, :stacktrace}} =
               same(fn sup ->
                 {:ok, pid} =
                   Trees.of(sup).start_link(fn -> sup.init([], strategy: :one_for_one) end)

                 try do
                   ask.(pid)
                 catch
                   :exit, _ -> :ok
                 end

                 receive(do: ({:EXIT, ^pid, reason} -> {:EXIT, reason}))
               end)
    end
  end

  # Returns the reports of the supervisor started by `scenario`, in order.
  defp reports(scenario) do
    same(fn sup ->
      id = :"sasl_#{System.unique_integer([:positive])}"
      :ok = :logger.add_handler(id, __MODULE__, %{config: %{to: self()}})
      pid = scenario.(sup)
      if Process.alive?(pid), do: :sys.get_state(pid)
      :ok = :logger.remove_handler(id)
      logged(pid)
    end)
  end

  defp logged(pid) do
    receive do
      {:logged, ^pid, %{msg: {:report, %{label: {:supervisor, kind}, report: report}}}} ->
        child = report[:offender] || report[:started]
        facts = Map.new(report) |> Map.drop([:offender, :started]) |> Map.merge(Map.new(child))
        [{kind, facts} | logged(pid)]

      {:logged, _, _} ->
        logged(pid)
    after
      0 -> []
    end
  end

  defp worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)
  defp started(id), do: receive(do: ({:started, ^id, pid} -> pid))

  defp crash(id, reason \\ :crash)
  defp crash(id, :killed), do: kill(started(id))
  defp crash(id, reason), do: GenServer.cast(started(id), {:stop, reason})

  defp kill(worker) do
    ref = Process.monitor(worker)
    Process.exit(worker, :kill)
    receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
  end
end
