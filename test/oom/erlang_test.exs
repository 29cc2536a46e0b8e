defmodule OOM.ErlangTest do
  # The modules for Erlang. The application's own parts run.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Priority, Tree, Workers}

  defmodule Callback do
    @moduledoc false
    @behaviour :oom_supervisor
    @impl true
    def init({flags, specs}), do: {:ok, {flags, specs}}
    def init(:ignore), do: :ignore
  end

  defp start_child(id), do: OOM.Test.Worker.child_spec(id: id, owner: self()).start

  defp start_tree(arguments) do
    start_supervised!(%{
      id: make_ref(),
      type: :supervisor,
      start: {:oom_supervisor, :start_link, arguments}
    })
  end

  describe "oom_supervisor" do
    test "takes Erlang's flags and specifications, as tuples and maps, and options for the children" do
      specs = [
        {:a, start_child(:a), :permanent, 5_000, :worker, [OOM.Test.Worker]},
        :oom.child_spec(%{id: :b, start: start_child(:b)}, priority: :high),
        :oom.child_spec({:c, start_child(:c), :permanent, 5_000, :worker, []}, priority: 7)
      ]

      flags = %{strategy: :one_for_one, intensity: 1, period: 5, oom: [priority: :low]}
      supervisor = start_tree([Callback, {flags, specs}])
      ranks = for id <- [:a, :b, :c], do: Workers.rank(started(id))
      assert ranks == [Priority.rank!(:low), Priority.rank!(:high), 7]
      assert Tree.kind(supervisor) == :oom

      assert [{:a, _, :worker, _} | _] =
               supervisor |> :supervisor.which_children() |> Enum.reverse()
    end

    test "takes the names that supervisor takes, and no other" do
      for {name, whereis} <- [
            {{:local, __MODULE__}, fn -> Process.whereis(__MODULE__) end},
            {{:global, __MODULE__}, fn -> :global.whereis_name(__MODULE__) end},
            {{:via, :global, :other}, fn -> :global.whereis_name(:other) end}
          ] do
        pid = start_tree([name, Callback, {{:one_for_one, 1, 5}, []}])
        assert whereis.() == pid
      end

      assert :oom_supervisor.start_link(Callback, :ignore) == :ignore
      assert_raise ArgumentError, fn -> :oom_supervisor.start_link(:name, Callback, :ignore) end
    end
  end

  describe "oom" do
    test "declares priorities, for the caller and for others" do
      pid = spawn(fn -> receive(do: (:never -> :ok)) end)
      assert :oom.set_priority(pid, :low) == :ok
      assert Workers.rank(pid) == Priority.rank!(:low)
      Process.exit(pid, :kill)
      test = self()

      {_, ref} =
        spawn_monitor(fn ->
          :ok = :oom.set_priority(:high)
          :ok = :oom.set_priority(300, max_heap_size: :infinity)
          send(test, {:rank, Workers.rank(self())})
        end)

      assert_receive {:DOWN, ^ref, _, _, :normal}
      assert_received {:rank, 300}
    end

    test "returns maps without Elixir's key" do
      snapshot = :oom.snapshot()
      assert snapshot == Map.delete(snapshot, :__struct__)
      assert Map.keys(snapshot) == %OOM.Snapshot{} |> Map.from_struct() |> Map.keys()
      assert is_boolean(:oom.admit(:low))
      assert :oom.level() in [:normal, :elevated, :high, :critical]
      assert :oom.subscribe() == :ok and :oom.unsubscribe() == :ok
      assert Enum.all?(:oom.top(3), &(not is_map_key(&1, :__struct__)))
    end

    test "shows held children and brings them back" do
      {top, %{a: a}} = start(:long, [:a])
      OOM.Victims.mark(a, System.monotonic_time(:millisecond), 1)
      Process.exit(a, {:shutdown, :memory_pressure})
      hold = eventually(fn -> Enum.find(:oom.held(), &(&1.supervisor == top)) end)
      assert hold.id == :a
      assert :oom.release(top, :a) == :ok
      assert started(:a) != a
    end

    test "adopts" do
      others = start_supervised!({DynamicSupervisor, []})
      assert :oom.adopt(others, priority: :low) == :ok
      assert Tree.kind(others) == :supervisor
    end

    test "a wrong argument is badarg, with a description" do
      for {fun, expected} <- [
            {fn -> :oom.set_priority(:lowest) end, "expected priority to be"},
            {fn -> :oom.child_spec(:a, []) end, "expected a child specification"},
            {fn -> :oom.adopt(7, []) end, "expected a supervisor as a pid"},
            {fn -> :oom.admit(:protected) end, "got: :protected"}
          ] do
        {:badarg, stack} = caught(fun)
        assert %{general: text} = :oom.format_error(:badarg, stack)
        assert List.to_string(text) =~ expected
      end
    end

    defp caught(fun) do
      fun.()
    catch
      :error, reason -> {reason, __STACKTRACE__}
    end
  end
end
