defmodule OOM.BondsTest do
  # The application's own parts run; the tests kill as the guard does.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.Bonds.Rounds
  alias OOM.{Bonds, Kill, Plan, Units, Victims, Workers}

  # A process that runs the functions sent to the mailbox, in order.
  defmodule Puppet do
    @moduledoc false
    def start(parent \\ :spawn)
    def start(:spawn), do: spawn(&loop/0)
    def loop, do: receive(do: ({:do, from, fun} -> done(from, fun.())))

    defp done(from, result) do
      send(from, {:done, self(), result})
      loop()
    end

    def run(pid, fun) do
      send(pid, {:do, self(), fun})

      receive do
        {:done, ^pid, result} -> result
      end
    end
  end

  defp puppet do
    pid = Puppet.start()
    on_exit(fn -> Process.exit(pid, :kill) end)
    pid
  end

  defp worker(priority) do
    pid = puppet()
    :ok = OOM.set_priority(pid, priority)
    pid
  end

  defp link(a, b), do: Puppet.run(a, fn -> Process.link(b) end)
  defp trap(pid), do: Puppet.run(pid, fn -> Process.flag(:trap_exit, true) end)
  # Runs `fun`, which does not return, until the process waits in any of the functions.
  defp goes_into(pid, functions, fun) do
    send(pid, {:do, self(), fun})
    eventually(fn -> elem(Process.info(pid, :current_function), 1) in functions end)
  end

  # Elixir 1.18 and later wait in functions of their own.
  @await [{Task, :await, 2}, {Task, :await_receive, 3}]
  @yield [{Task, :yield, 2}, {Task, :yield_receive, 3}]

  defp rank(pid), do: elem(Workers.lookup(pid), 1)

  describe "an exit takes along" do
    test "nobody by itself" do
      assert Bonds.rank(worker(:low)) == 0
    end

    test "linked processes, directly and by way of others" do
      [low, high, protected] = Enum.map([:low, :high, :protected], &worker/1)
      link(low, high)
      assert Bonds.rank(low) == 750
      between = puppet()
      link(low, between)
      assert Bonds.rank(low) == 750
      link(between, protected)
      assert Bonds.rank(low) == :protected
      # A link has no direction.
      assert Bonds.rank(protected) == 750
    end

    test "no process that traps exits, nor processes behind it" do
      [low, high, protected] = Enum.map([:low, :high, :protected], &worker/1)
      trap(high)
      link(low, high)
      link(high, protected)
      assert Bonds.rank(low) == 0
      # But itself: the links of the trapping process are followed from there.
      assert Bonds.rank(high) == :protected
    end

    test "a spawned child, which ends with its parent even while trapping exits" do
      low = worker(:low)

      child =
        Puppet.run(low, fn ->
          {:ok, pid} = Agent.start_link(fn -> Process.flag(:trap_exit, true) end)
          pid
        end)

      assert Bonds.rank(low) == 0
      OOM.set_priority(child, :high)
      assert Bonds.rank(low) == 750
      # A parent trapping exits outlives a child.
      trap(low)
      assert Bonds.rank(child) == 0
    end

    test "an unregistered process with a supervisor, which OOM may not kill" do
      low = worker(:low)
      link(low, puppet())
      assert Bonds.rank(low) == 0
      outside = start_supervised!({Agent, fn -> nil end})
      Agent.get(outside, fn _ -> Process.link(low) end)
      assert Bonds.rank(low) == :protected
    end

    test "a process in a unit, as the unit, and for the unit itself as a part" do
      low = worker(:low)

      child = %{id: :in, start: {Agent, :start_link, [fn -> nil end]}}
      inner = {Supervisor, :start_link, [[child], [strategy: :one_for_one]]}

      unit =
        OOM.child_spec(%{id: :unit, type: :supervisor, start: inner}, unit: true, priority: 600)

      start = {OOM.Supervisor, :start_link, [[unit], [strategy: :one_for_one]]}
      top = start_supervised!(%{id: :top, start: start})
      [{:unit, unit, _, _}] = Supervisor.which_children(top)
      [{:in, inside, _, _}] = Supervisor.which_children(unit)
      assert Bonds.rank(unit) == 0
      Agent.get(inside, fn _ -> Process.link(low) end)
      assert {Bonds.rank(low), Bonds.rank(unit)} == {600, 250}
    end

    test "a process that waits for it in a call, and no process that only monitors it" do
      {:ok, low} = Agent.start(fn -> nil end)
      on_exit(fn -> Process.exit(low, :kill) end)
      OOM.set_priority(low, :low)
      high = worker(:high)
      Puppet.run(high, fn -> Process.monitor(low) end)
      assert Bonds.rank(low) == 0
      # The same question to a worker without an answer.
      Agent.cast(low, fn _ -> receive(do: (:go -> nil)) end)
      goes_into(high, [{:gen, :do_call, 4}], fn -> Agent.get(low, & &1, :infinity) end)
      assert Bonds.rank(low) == 750
      send(low, :go)
      assert_receive {:done, ^high, nil}, 5_000
      assert Bonds.rank(low) == 0
    end

    test "a process that awaits it without a link, and processes linked with that process" do
      tasks = start_supervised!(Task.Supervisor)
      [high, protected] = Enum.map([:high, :protected], &worker/1)

      nolink = fn -> Task.Supervisor.async_nolink(tasks, fn -> receive(do: (:go -> nil)) end) end
      task = Puppet.run(high, nolink)
      OOM.set_priority(task.pid, :low)
      goes_into(high, @yield, fn -> Task.yield(task, 1_000_000_000) end)
      assert Bonds.rank(task.pid) == 0
      send(task.pid, :go)
      assert_receive {:done, ^high, {:ok, nil}}, 5_000

      task = Puppet.run(high, nolink)
      OOM.set_priority(task.pid, :low)
      goes_into(high, @await, fn -> Task.await(task, :infinity) end)
      assert Bonds.rank(task.pid) == 750
      Process.exit(high, :kill)

      helper = puppet()
      task = Puppet.run(helper, nolink)
      OOM.set_priority(task.pid, :low)
      link(helper, protected)
      goes_into(helper, [{Task, :await_many, 5}], fn -> Task.await_many([task], :infinity) end)
      assert Bonds.rank(task.pid) == :protected
    end

    test "a reader of a stream of tasks, unless the tasks are not linked" do
      tasks = start_supervised!(Task.Supervisor)
      test = self()

      task = fn _ ->
        send(test, {:task, self()})
        receive(do: (:go -> nil))
      end

      for {stream, expected} <- [async_stream: 750, async_stream_nolink: 0] do
        high = worker(:high)
        options = [timeout: :infinity]
        args = [tasks, 1..1, task, options]

        send(
          high,
          {:do, test, fn -> Task.Supervisor |> apply(stream, args) |> Enum.to_list() end}
        )

        assert_receive {:task, pid}, 5_000
        OOM.set_priority(pid, :low)
        eventually(fn -> Bonds.rank(pid) == expected end)
        send(pid, :go)
        assert_receive {:done, ^high, [ok: nil]}, 5_000
      end
    end
  end

  test "far away is not looked at, and a ring is no trap" do
    chain = for _ <- 1..9, do: puppet()
    for {a, b} <- Enum.zip(chain, tl(chain)), do: link(a, b)
    [protected, low] = Enum.map([:protected, :low], &worker/1)
    link(List.last(chain), protected)
    link(low, hd(chain))
    assert Bonds.rank(low) == 0
    assert Bonds.rank(Enum.at(chain, 2)) == :protected
    # The chain closed to a ring.
    [a, b] = [worker(:low), worker(:high)]
    [c, d] = [puppet(), puppet()]
    for {x, y} <- [{a, c}, {c, b}, {b, d}, {d, a}], do: link(x, y)
    assert Bonds.rank(a) == 750
  end

  describe "in the background" do
    test "the next victims are raised, and fall again when the bond ends" do
      [low, high] = Enum.map([0, :high], &worker/1)
      Workers.sampled(low, 1_000_000_000_000, now(), :fresh)
      link(low, high)
      Rounds.round()
      assert {rank(low), Units.own(low), Units.bond(low)} == {750, 0, 750}
      # The worker's own rank is declared elsewhere.
      OOM.set_priority(low, 5)
      assert {rank(low), Units.own(low)} == {750, 5}
      OOM.set_priority(low, 800)
      assert rank(low) == 800
      OOM.set_priority(low, 5)
      # A walk keeps the bond.
      OOM.Tree.Census.walk()
      assert rank(low) == 750

      Puppet.run(low, fn -> Process.unlink(high) end)
      Rounds.round()
      assert {rank(low), Units.bond(low)} == {5, 0}
      assert :ets.lookup(Units, low) == []
    end

    test "protected is out of the plan, and comes back" do
      [low, protected] = Enum.map([0, :protected], &worker/1)
      Workers.sampled(low, 1_000_000_000_000, now(), :fresh)
      link(low, protected)
      Rounds.round()
      assert rank(low) == :protected
      refute :ets.member(Plan, {0, -1_000_000_000_000, low})
      Puppet.run(low, fn -> Process.unlink(protected) end)
      Rounds.round()
      assert rank(low) == 0
      assert :ets.member(Plan, {0, -1_000_000_000_000, low})
    end

    test "the end of a raised worker leaves nothing" do
      [low, high] = Enum.map([0, :high], &worker/1)
      Workers.sampled(low, 1_000_000_000_000, now(), :fresh)
      link(low, high)
      Rounds.round()
      assert low in Units.bound()
      Process.exit(low, :kill)
      eventually(fn -> not Workers.member?(low) end)
      OOM.Tree.Census.walk()
      refute low in Units.bound()
    end
  end

  describe "at the kill" do
    setup do
      guard = Process.whereis(OOM.Guard)
      :erlang.trace(guard, true, [:receive])
      on_exit(fn -> Process.alive?(guard) && :erlang.trace(guard, false, [:receive]) end)
      :ok
    end

    test "a worker bound to a protected one since the last look is spared" do
      [low, protected] = Enum.map([:low, :protected], &worker/1)
      OOM.Asker.listens(low, true)
      Workers.sampled(low, 5_000_000, now(), :fresh)
      row = Workers.lookup(low)
      link(low, protected)
      Kill.begin(low, nil, 5_000_000, now(), 100)
      assert_receive {:trace, _, :receive, {:spared, ^low, :protected}}, 5_000

      # Only the rank has changed.
      assert Workers.lookup(low) == put_elem(row, 1, :protected)
      assert Units.own(low) == 250
      refute Victims.marked?(low)
      assert :ets.member(OOM.Asker, low)
      # The worker runs.
      assert Puppet.run(low, fn -> :runs end) == :runs
      assert Process.alive?(protected)

      Puppet.run(low, fn -> Process.unlink(protected) end)
      Rounds.round()
      assert rank(low) == 250
      ref = Process.monitor(low)
      Kill.begin(low, nil, 5_000_000, now(), 100)
      assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}, 5_000
    end

    test "a worker bound to a more important one is killed when its turn comes" do
      [low, high] = Enum.map([:low, :high], &worker/1)
      link(low, high)
      Kill.begin(low, nil, 1, now(), 100)
      assert_receive {:trace, _, :receive, {:spared, ^low, 750}}, 5_000
      assert rank(low) == 750
      assert :ets.member(Plan, {750, 0, low})
      ref = Process.monitor(high)
      Kill.begin(low, nil, 1, now(), 100)
      assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}, 5_000
    end

    test "a worker bound to nobody more important dies, with its peers" do
      [low, peer] = Enum.map([:low, :low], &worker/1)
      link(low, peer)
      ref = Process.monitor(peer)
      Kill.begin(low, nil, 1, now(), 100)
      assert_receive {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}}, 5_000
      refute_received {:trace, _, :receive, {:spared, _, _}}
      eventually(fn -> not Workers.member?(low) end)
    end

    test "who was spared is said, and not told as killed" do
      [low, protected] = Enum.map([:low, :protected], &worker/1)
      link(low, protected)

      report = %{
        rss_bytes: 1,
        headroom_bytes: 1,
        limit_bytes: 1,
        working_set_bytes: 1,
        growth_bytes_per_s: 1
      }

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          victim = %{pid: low, rank: 250, bytes: 1, id: :one, name: nil, supervisor: nil}
          OOM.Reporter.killed([victim], 1, report)
          Kill.begin(low, nil, 1, now(), 100)
          assert_receive {:trace, _, :receive, {:spared, ^low, :protected}}, 5_000

          eventually(fn ->
            match?(%{round: nil, spared: {0, []}}, :sys.get_state(OOM.Reporter))
          end)
        end)

      assert log =~ "not killed, as a more important process would have ended with it"
      assert log =~ "#{inspect(low)} for one of priority :protected"
      refute log =~ "OOM: killed"
    end

    test "a worker that ends meanwhile is forgotten" do
      low = worker(:low)
      row = Workers.take(low)
      Process.exit(low, :kill)
      eventually(fn -> not Process.alive?(low) end)
      Workers.put_back(row, :protected)
      refute Workers.member?(low)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
