defmodule OOM.Supervisor.RestartTest do
  use ExUnit.Case, async: true

  import OOM.Test.Eventually
  import OOM.Test.Parity

  alias OOM.Test.{Trees, Worker}

  describe "restart types" do
    for {restart, reason, back?} <- [
          {:permanent, :normal, true},
          {:permanent, :shutdown, true},
          {:permanent, {:shutdown, :done}, true},
          {:permanent, :crash, true},
          {:transient, :normal, false},
          {:transient, :shutdown, false},
          {:transient, {:shutdown, :done}, false},
          {:transient, :crash, true},
          {:transient, :killed, true},
          {:temporary, :normal, false},
          {:temporary, :crash, false},
          {:temporary, :killed, false}
        ] do
      @tag restart: restart, reason: reason, back?: back?
      test "a #{restart} child that ends with #{inspect(reason)}", context do
        %{restart: restart, reason: reason, back?: back?} = context

        children =
          same(fn sup ->
            {pid, %{a: worker}} = start(sup, [worker(:a, restart: restart)])
            stop(worker, reason)
            if back?, do: started(:a), else: gone(pid)
            {Supervisor.which_children(pid), Supervisor.count_children(pid)}
          end)

        case {restart, back?} do
          {_, true} -> assert {[{:a, {:pid, 1}, :worker, _}], %{active: 1}} = children
          {:temporary, false} -> assert {[], %{active: 0, specs: 0}} = children
          {_, false} -> assert {[{:a, :undefined, :worker, _}], %{active: 0}} = children
        end
      end
    end
  end

  describe "strategies" do
    for {strategy, restarted} <- [
          one_for_one: [:b],
          rest_for_one: [:b, :c],
          one_for_all: [:a, :b, :c]
        ] do
      @tag strategy: strategy, restarted: restarted
      test "#{strategy} restarts #{inspect(restarted)} when b crashes", context do
        %{strategy: strategy, restarted: expected} = context

        assert {stopped, ^expected, %{active: 3}} =
                 same(fn sup ->
                   children = for id <- [:a, :b, :c], do: worker(id, trap_exit: true)
                   {pid, %{b: b}} = start(sup, children, strategy: strategy)
                   stop(b, :crash)
                   restarted = for _ <- expected, do: started()
                   {stopped(), restarted, Supervisor.count_children(pid)}
                 end)

        others = expected |> Enum.reject(&(&1 == :b)) |> Enum.reverse()
        assert for({id, :shutdown} <- stopped, do: id) == others
        assert {:b, :crash} in stopped
      end
    end

    test "a temporary sibling is gone for good" do
      assert [{:a, {:pid, 1}, :worker, _}] =
               same(fn sup ->
                 children = [worker(:a), worker(:b, restart: :temporary)]
                 {pid, %{a: a}} = start(sup, children, strategy: :one_for_all)
                 stop(a, :crash)
                 started(:a)
                 Supervisor.which_children(pid)
               end)
    end
  end

  describe "a failing restart" do
    test "is tried again, and each try counts" do
      assert {:shutdown, 4} =
               same(fn sup ->
                 starts = :counters.new(1, [])

                 start = fn ->
                   :counters.add(starts, 1, 1)
                   if :counters.get(starts, 1) == 1, do: :ok, else: {:error, :no}
                 end

                 {pid, %{a: a}} = start(sup, [worker(:a, start: start)], max_restarts: 3)
                 stop(a, :crash)
                 {ended(pid), :counters.get(starts, 1)}
               end)
    end

    test "succeeds at a later try" do
      assert %{active: 1} =
               same(fn sup ->
                 starts = :counters.new(1, [])

                 start = fn ->
                   :counters.add(starts, 1, 1)
                   if :counters.get(starts, 1) in [2, 3], do: {:error, :no}, else: :ok
                 end

                 {pid, %{a: a}} = start(sup, [worker(:a, start: start)], max_restarts: 10)
                 stop(a, :crash)
                 started(:a)
                 Supervisor.count_children(pid)
               end)
    end
  end

  describe "max_restarts" do
    test "exceeded ends the supervisor with :shutdown" do
      assert {[:a, :a], :shutdown} =
               same(fn sup ->
                 {pid, %{a: a}} = start(sup, [worker(:a)], max_restarts: 2, max_seconds: 1_000)
                 stop(a, :crash)
                 stop(started(:a), :crash)
                 stop(started(:a), :crash)
                 {[:a, :a], ended(pid)}
               end)
    end

    test "a child killed by hand is restarted, and counts" do
      assert :shutdown =
               same(fn sup ->
                 {pid, %{a: a}} = start(sup, [worker(:a)], max_restarts: 1, max_seconds: 1_000)
                 stop(a, :killed)
                 stop(started(:a), :killed)
                 ended(pid)
               end)
    end

    test "of 0 allows none" do
      for reason <- [:crash, :killed] do
        assert :shutdown =
                 same(fn sup ->
                   {pid, %{a: a}} = start(sup, [worker(:a)], max_restarts: 0)
                   stop(a, reason)
                   ended(pid)
                 end)
      end
    end
  end

  test "a killed child is back as soon as anyone asks the supervisor" do
    {pid, %{a: a}} = start(OOM.Supervisor, [worker(:a)])
    ref = Process.monitor(a)
    Process.exit(a, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}
    # The exit is in the supervisor's mailbox before the question.
    assert [{:a, new, :worker, _}] = Supervisor.which_children(pid)
    assert is_pid(new) and new != a
  end

  test "several children killed at once all come back" do
    assert %{active: 5} =
             same(fn sup ->
               {pid, workers} = start(sup, for(id <- 1..5, do: worker(id)), max_restarts: 10)

               for {_, worker} <- workers, do: Process.exit(worker, :kill)
               for {id, _} <- workers, do: started(id)
               Supervisor.count_children(pid)
             end)
  end

  test "killed children under one_for_all come back once" do
    {pid, %{a: a, b: b}} =
      start(OOM.Supervisor, [worker(:a), worker(:b)], strategy: :one_for_all, max_restarts: 10)

    Process.exit(a, :kill)
    Process.exit(b, :kill)
    started(:a)
    started(:b)

    eventually(fn -> Supervisor.count_children(pid).active == 2 end)
    assert [_, _] = for({_, pid, _, _} <- Supervisor.which_children(pid), do: Process.alive?(pid))
  end

  describe "auto_shutdown" do
    for {auto_shutdown, reason, ends?} <- [
          {:any_significant, :normal, true},
          {:any_significant, {:shutdown, :done}, true},
          {:all_significant, :normal, false},
          {:never, :normal, false}
        ] do
      @tag auto_shutdown: auto_shutdown, reason: reason, ends?: ends?
      test "#{auto_shutdown}, when one of two significant children ends with #{inspect(reason)}",
           %{auto_shutdown: auto_shutdown, reason: reason, ends?: ends?} do
        result =
          same(fn sup ->
            options = [restart: :transient, significant: auto_shutdown != :never]
            children = for id <- [:a, :b], do: worker(id, options)
            flags = %{strategy: :one_for_one, auto_shutdown: auto_shutdown}
            {:ok, pid} = Trees.of(sup).start_link(fn -> {:ok, {flags, children}} end)
            stop(started(:a), reason)
            if ends?, do: ended(pid), else: gone(pid)
          end)

        assert result == if(ends?, do: :shutdown, else: true)
      end
    end

    test "all_significant, when both end" do
      assert :shutdown =
               same(fn sup ->
                 children =
                   for id <- [:a, :b], do: worker(id, restart: :temporary, significant: true)

                 flags = %{strategy: :one_for_one, auto_shutdown: :all_significant}
                 {:ok, pid} = Trees.of(sup).start_link(fn -> {:ok, {flags, children}} end)
                 {a, b} = {started(:a), started(:b)}
                 stop(a, :normal)
                 stop(b, :normal)
                 ended(pid)
               end)
    end
  end

  defp start(sup, children, options \\ []) do
    {:ok, pid} = sup.start_link(children, Keyword.put_new(options, :strategy, :one_for_one))
    Process.flag(:trap_exit, true)
    {pid, for(%{id: id} <- children, into: %{}, do: {id, started(id)})}
  end

  defp worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)

  defp stop(worker, :killed), do: Process.exit(worker, :kill)
  defp stop(worker, reason), do: GenServer.cast(worker, {:stop, reason})

  defp started(id), do: receive(do: ({:started, ^id, pid} -> pid))
  defp started, do: receive(do: ({:started, id, _pid} -> id))

  defp stopped do
    receive do
      {:stopped, id, reason} -> [{id, reason} | stopped()]
    after
      0 -> []
    end
  end

  # Waits until a child less runs.
  defp gone(supervisor) do
    eventually(fn ->
      counts = Supervisor.count_children(supervisor)
      counts.active < counts.specs or counts.specs == 0
    end)
  end

  defp ended(supervisor), do: receive(do: ({:EXIT, ^supervisor, reason} -> reason))
end
