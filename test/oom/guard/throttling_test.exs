defmodule OOM.Guard.ThrottlingTest do
  use ExUnit.Case, async: true

  alias OOM.Guard.Throttling
  alias OOM.Limits

  defp at_work, do: %Throttling{throttle: %{pid: self(), ref: make_ref()}}

  test "growth while the workers stand is known while a throttle is at work" do
    assert Throttling.at_work?(at_work())
    assert Throttling.standing_bytes_per_s(at_work()) == 0
    told = Throttling.told(at_work(), 1_000)
    assert Throttling.standing_bytes_per_s(told) == 1_000
    ended = Throttling.ended(told, false, 0)
    refute Throttling.at_work?(ended)
    assert Throttling.standing_bytes_per_s(ended) == nil
  end

  test "the first throttle begins at once; after one that ended there is a pause" do
    assert Throttling.rested?(%Throttling{}, -1_000)
    own = Throttling.ended(at_work(), false, 1_000)
    refute Throttling.rested?(own, 999 + Limits.Turn.again_ms())
    assert Throttling.rested?(own, 1_000 + Limits.Turn.again_ms())
    foreign = Throttling.ended(at_work(), true, 1_000)
    refute Throttling.rested?(foreign, 999 + Limits.Turn.again_foreign_ms())
    assert Throttling.rested?(foreign, 1_000 + Limits.Turn.again_foreign_ms())
    assert Limits.Turn.again_foreign_ms() > Limits.Turn.again_ms()
  end

  test "an episode ends some time after the last throttle" do
    assert Throttling.episode_over?(%Throttling{}, 0)
    ended = Throttling.ended(at_work(), false, 0)
    over_ms = Limits.Turn.again_ms() + Limits.episode_ms()
    refute Throttling.episode_over?(ended, over_ms)
    assert Throttling.episode_over?(ended, over_ms + 1)
  end
end
