defmodule OOM.RecentGrowthTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, RecentGrowth}

  @mib 1_048_576
  @fades Limits.grown_ms()

  defp seen(recent \\ %RecentGrowth{}, used_mib, now_ms),
    do: RecentGrowth.seen(recent, %{working_set_bytes: used_mib * @mib}, now_ms)

  describe "seen/3" do
    test "adds up growth, less memory given back" do
      assert seen(300, 0).bytes == 0
      assert seen(seen(300, 0), 350, 0).bytes == 50 * @mib
      # A collection takes memory and gives it back.
      assert (seen(300, 0) |> seen(400, 0) |> seen(310, 0)).bytes == 10 * @mib
      assert (seen(300, 0) |> seen(200, 0)).bytes == 0
    end

    test "fades as the growth of workers does" do
      grown = seen(seen(300, 0), 350, 0)
      assert_in_delta seen(grown, 350, @fades).bytes, 50 * @mib / 2.72, 0.1 * @mib
    end

    test "counts the last part of growth between two reports far apart" do
      far = seen(seen(300, 0), 400, 10 * Limits.shown_ms())
      assert far.bytes == 10 * @mib
    end
  end
end
