defmodule OOM.NeedTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, Need, Promises}

  @mib 1_048_576
  # Of 512 MiB.
  @floor 28 * @mib
  # To which headroom is brought back.
  @target 42 * @mib
  @reaction_ms 15

  defp report(headroom_bytes, extra \\ []) do
    Map.merge(
      %{
        headroom_bytes: headroom_bytes,
        critical_headroom_bytes: @floor,
        working_set_bytes: 512 * @mib - headroom_bytes,
        growth_bytes_per_s: nil,
        surge_bytes_per_s: nil,
        trend_bytes_per_s: 0,
        standing_bytes_per_s: nil
      },
      Map.new(extra)
    )
  end

  defp need(report, step_bytes \\ 0, promises \\ %Promises{}),
    do: Need.bytes(report, promises, @reaction_ms, step_bytes, 0)

  describe "a node that stands still" do
    test "needs nothing down to half of the floor" do
      for mib <- [500, 50, 28, 20, 14], do: assert(need(report(mib * @mib)) <= 0)
    end

    test "makes room where next to nothing is left" do
      assert need(report(14 * @mib - 1)) == @target - 14 * @mib + 1
      assert need(report(0)) == @target
    end

    test "is also a node that shrinks, or grows so slowly that there is time for everything" do
      for growth <- [-500_000_000, 0, 1_999_999],
          do: assert(need(report(20 * @mib, growth_bytes_per_s: growth)) <= 0)
    end
  end

  describe "growth" do
    test "needs at the floor the way back, and the growth until a decision takes effect" do
      report = report(27 * @mib, growth_bytes_per_s: 10_000_000)
      assert need(report) == 15 * @mib + 150_000
    end

    test "needs something before the floor, where growth outruns a decision" do
      # 15 ms of 400 MiB/s are 6 MiB.
      growing = &report(&1, growth_bytes_per_s: 400 * @mib)
      assert need(growing.(@floor + 6 * @mib)) <= 0
      assert need(growing.(@floor + 6 * @mib - 1)) == @target - @floor + 1
      assert need(growing.(400 * @mib)) <= 0
    end

    test "that has only just begun needs no more than a node that stands still" do
      surge = &report(&1, surge_bytes_per_s: 2_000_000_000)
      assert need(surge.(14 * @mib)) <= 0
      assert need(surge.(14 * @mib - 1)) == @target - 14 * @mib + 1
    end

    test "is brought back to the target, or further where more growth is coming" do
      report = report(@floor, growth_bytes_per_s: 10_000 * @mib)
      assert need(report) == @target - @floor + 150 * @mib
    end
  end

  describe "while the throttle is at work" do
    test "growth counts over whole turns, or while all workers stood still" do
      bursts = [growth_bytes_per_s: 1_000 * @mib, standing_bytes_per_s: 0]
      assert need(report(@floor + 1, bursts)) <= 0
      trend = Keyword.put(bursts, :trend_bytes_per_s, 400 * @mib)
      assert need(report(@floor + @mib, trend)) == 19 * @mib
      standing = Keyword.put(bursts, :standing_bytes_per_s, 400 * @mib)
      assert need(report(@floor + @mib, standing)) == 19 * @mib
      assert need(report(@floor, Keyword.put(bursts, :trend_bytes_per_s, -400 * @mib))) <= 0
    end

    test "the floor counts although nothing seems to grow" do
      assert need(report(@floor - 1, standing_bytes_per_s: 0)) == @target - @floor + 1
    end
  end

  describe "a step that nothing interrupts" do
    test "may pass the floor, and must not pass the limit" do
      # Half of the floor stays.
      assert need(report(100 * @mib), 86 * @mib) == 0
      assert need(report(100 * @mib), 86 * @mib + 1) == 1
    end

    test "asks for no more where the floor is passed anyhow" do
      report = report(@floor - 1, growth_bytes_per_s: 2_000_000)
      assert need(report, 500 * @mib) == need(report)
    end
  end

  describe "promised memory" do
    setup do
      victim = %{pid: self(), rank: 250, bytes: 10 * @mib}
      %{promises: Promises.told(%Promises{}, [victim], report(0), 0)}
    end

    test "is room", %{promises: promises} do
      assert need(report(0), 0, promises) == @target - 10 * @mib
    end

    test "is not counted on near the end, once overdue", %{promises: promises} do
      # No time is left.
      urgent = report(0, growth_bytes_per_s: 1, working_set_bytes: 512 * @mib)
      at = fn now -> Need.bytes(urgent, promises, @reaction_ms, 0, now) end
      assert at.(Limits.leave_ms() - 1) == @target - 10 * @mib
      assert at.(Limits.leave_ms()) == @target
      # With time enough it counts for longer.
      still = report(0)
      assert Need.bytes(still, promises, @reaction_ms, 0, 149) == @target - 10 * @mib
      assert Need.bytes(still, promises, @reaction_ms, 0, 150) == @target
    end
  end

  test "steady workers pay for a second of growth besides" do
    assert Need.steady_bytes(report(0, growth_bytes_per_s: 7), 5) == 12
    assert Need.steady_bytes(report(0), 5) == 5
    assert Need.steady_bytes(report(0, growth_bytes_per_s: -7), 5) == 5
    throttled = report(0, growth_bytes_per_s: 100, standing_bytes_per_s: 0, trend_bytes_per_s: 3)
    assert Need.steady_bytes(throttled, 5) == 8
  end

  test "workers below :normal pay for a moment of growth" do
    report = report(0, growth_bytes_per_s: 1_000)
    assert Need.soon_bytes(report, 5) == 5 + Limits.soon_ms()
    assert Need.soon_bytes(report(0), 5) == 5
  end

  test "left_ms/1 is the time to the limit itself" do
    assert Need.left_ms(report(1_000, growth_bytes_per_s: 2_000)) == 500
    assert Need.left_ms(report(1_000, growth_bytes_per_s: -2_000)) == nil
    assert Need.left_ms(report(1_000)) == nil
  end

  describe "recent_bytes/1" do
    test "is the growth of memory while growth is remembered" do
      report = report(0, growth_bytes_per_s: 100_000_000)
      assert Need.recent_bytes(report) == 100_000 * Limits.grown_ms()
    end

    test "goes by the faster of now and of whole turns" do
      report = report(0, growth_bytes_per_s: 7_000_000, trend_bytes_per_s: 100_000_000)
      assert Need.recent_bytes(report) == 100_000 * Limits.grown_ms()
      # A throttled node grows in the turns alone.
      standing = [standing_bytes_per_s: 0, growth_bytes_per_s: 1_000_000_000]
      report = report(0, [trend_bytes_per_s: 100_000_000] ++ standing)
      assert Need.recent_bytes(report) == 100_000 * Limits.grown_ms()
    end

    test "is never less than the growth of a node that just works" do
      for growth <- [nil, -100_000_000, 0, 1_000_000],
          do:
            assert(
              Need.recent_bytes(report(0, growth_bytes_per_s: growth)) == Limits.recent_bytes()
            )

      unknown = report(0, growth_bytes_per_s: nil, trend_bytes_per_s: nil)
      assert Need.recent_bytes(unknown) == Limits.recent_bytes()
    end
  end

  test "lasts?/1 counts lasting growth, and no surge" do
    refute Need.lasts?(report(0, growth_bytes_per_s: 1_999_999, surge_bytes_per_s: 2_000_000_000))
    refute Need.lasts?(report(0))
    assert Need.lasts?(report(0, growth_bytes_per_s: 2_000_000))
    refute Need.lasts?(report(0, growth_bytes_per_s: 2_000_000, standing_bytes_per_s: 0))
    assert Need.lasts?(report(0, standing_bytes_per_s: 0, trend_bytes_per_s: 2_000_000))
    assert Need.lasts?(report(0, standing_bytes_per_s: 2_000_000))
  end

  test "where no limit is known, surge and trend are no growth" do
    unknown = report(0, growth_bytes_per_s: nil, surge_bytes_per_s: nil, trend_bytes_per_s: nil)
    refute Need.grows?(unknown)
    refute Need.lasts?(unknown)
    standing = %{unknown | standing_bytes_per_s: 0}
    refute Need.grows?(standing)
    refute Need.lasts?(standing)
  end

  test "grows?/1 counts lasting growth, and a surge" do
    refute Need.grows?(report(0, growth_bytes_per_s: 1_999_999, surge_bytes_per_s: 1_999_999))
    assert Need.grows?(report(0, growth_bytes_per_s: 2_000_000))
    assert Need.grows?(report(0, surge_bytes_per_s: 2_000_000))
    refute Need.grows?(report(0, growth_bytes_per_s: 2_000_000, standing_bytes_per_s: 0))
    assert Need.grows?(report(0, standing_bytes_per_s: 2_000_000))
  end
end
