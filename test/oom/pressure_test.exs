defmodule OOM.PressureTest do
  use ExUnit.Case, async: true

  alias OOM.{Pressure, Snapshot}

  @snapshot %Snapshot{
    headroom_bytes: 500,
    elevated_headroom_bytes: 600,
    high_headroom_bytes: 550,
    critical_headroom_bytes: 400
  }

  describe "need_bytes/1" do
    test "is the bytes missing to be well away" do
      assert Pressure.need_bytes(@snapshot) == 100
      assert Pressure.need_bytes(%{@snapshot | slack_bytes: 30}) == 70
      assert Pressure.need_bytes(%{@snapshot | headroom_bytes: 601}) == -1
    end

    test "and the growth until the level is critical" do
      # 100 bytes at 200 a second: half a second.
      assert Pressure.need_bytes(%{@snapshot | growth_bytes_per_s: 200}) == 200
      # Slow growth counts for a second.
      assert Pressure.need_bytes(%{@snapshot | growth_bytes_per_s: 10}) == 110
      assert Pressure.need_bytes(%{@snapshot | growth_bytes_per_s: -10}) == 100
    end

    test "is nothing where nothing is known" do
      assert Pressure.need_bytes(%Snapshot{}) == 0
    end
  end

  test "left_ms/1 is the time until the level is critical" do
    assert Pressure.left_ms(%{@snapshot | growth_bytes_per_s: 1_000}) == 100
    assert Pressure.left_ms(%{@snapshot | growth_bytes_per_s: 1}) == 1_000
    assert Pressure.left_ms(@snapshot) == 1_000
    assert Pressure.left_ms(%{@snapshot | headroom_bytes: 399, growth_bytes_per_s: 1}) == 0
  end
end
