defmodule OOM.BrakeTest do
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Brake, Workers}

  test "stops those who are next in line, and nobody of a higher priority" do
    [a, b] = for bytes <- [10, 20], do: worker(250, bytes)
    important = worker(500, 30)
    lasting(fn -> Enum.all?([a, b], &suspended?/1) end)
    refute suspended?(important)
  end

  test "stops small ones with the large of their priority" do
    small = worker(250, 1)
    worker(250, 100)
    lasting(fn -> suspended?(small) end, min_bytes: 10)
  end

  test "passes by a priority where all are known to be small" do
    small = worker(250, 1)
    large = worker(500, 100)
    lasting(fn -> suspended?(large) end, min_bytes: 10)
    refute suspended?(small)
  end

  test "leaves alone who is protected by now, whatever key was left behind" do
    pid = worker(:protected, 10)
    worker(250, 10)
    :ets.insert(OOM.Plan, {{250, -20, pid}})
    other = worker(250, 30)
    lasting(fn -> suspended?(other) end)
    refute suspended?(pid)
  end

  test "lets a victim go on, so that it can act on its exit signal" do
    [victim, other] = for _ <- 1..2, do: worker(250, 10)
    brake = lasting(fn -> suspended?(victim) and suspended?(other) end)
    Brake.release(brake, [victim])
    eventually(fn -> not suspended?(victim) end)
  end

  test "a suspended worker still dies" do
    pid = worker(250, 10)
    lasting(fn -> suspended?(pid) end)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
  end

  test "whatever ends it, all go on" do
    pid = worker(250, 10)
    brake = lasting(fn -> suspended?(pid) end)
    Process.exit(brake.pid, :kill)
    eventually(fn -> not suspended?(pid) end)
  end

  test "ends by itself when nobody asks for it any more" do
    pid = worker(250, 10)
    brake = Brake.on(nil, limits())
    ref = Process.monitor(brake.pid)
    assert_receive {:DOWN, ^ref, _, _, :normal}, 5_000
    eventually(fn -> not suspended?(pid) end)
  end

  describe "on/2, as time goes by" do
    setup do: %{brake: Brake.on(nil, limits())}

    test "asks again now and then", %{brake: brake} do
      assert Brake.on(brake, limits(now_ms: 19)) == brake
      assert %{sent_ms: 20} = later = Brake.on(brake, limits(now_ms: 20))
      assert later.pid == brake.pid
    end

    test "begins anew when it has ended meanwhile", %{brake: brake} do
      assert Brake.on(brake, limits(now_ms: 60)).pid != brake.pid
    end

    test "gives way for a while when it has lasted long", %{brake: brake} do
      long = Enum.reduce(20..440//20, brake, &Brake.on(&2, limits(now_ms: &1)))
      assert long.pid == brake.pid
      assert Brake.on(long, limits(now_ms: 460)) == long
      assert Brake.on(long, limits(now_ms: 939)) == long
      assert Brake.on(long, limits(now_ms: 940)).pid != brake.pid
    end
  end

  # Asks until it is so; each time it ends by itself soon after.
  defp lasting(condition, changed \\ []) do
    eventually(fn ->
      brake = Brake.on(nil, limits(changed))
      if Enum.any?(1..10, fn _ -> Process.sleep(1) && condition.() end), do: brake
    end)
  end

  defp suspended?(pid), do: Process.info(pid, :status) == {:status, :suspended}

  defp worker(rank, bytes) do
    pid = idle()
    :ok = Workers.declare(pid, rank)
    :ok = Workers.sampled(pid, bytes, 0, :fresh)
    pid
  end

  defp limits(changed \\ []) do
    Map.merge(
      %{
        need_bytes: 0,
        count: 64,
        min_bytes: 0,
        fresh_ms: 100,
        unknown: :wait,
        busy: :spare,
        ceiling: 1000,
        now_ms: 0,
        growth_bytes_per_ms: 0
      },
      Map.new(changed)
    )
  end
end
