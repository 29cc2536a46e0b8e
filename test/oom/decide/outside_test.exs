defmodule OOM.OutsideTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, Outside}

  @mib 1_048_576
  @window Limits.outside_ms()

  defp seen(outside \\ %Outside{}, used_mib, rss_mib, now_ms) do
    report = %{working_set_bytes: used_mib * @mib, rss_bytes: rss_mib * @mib}
    Outside.seen(outside, report, now_ms)
  end

  describe "seen/3" do
    test "tells the growth that the VM's own memory does not explain" do
      outside = seen(100, 60, 0)
      assert outside.bytes_per_s == 0
      outside = seen(outside, 150, 90, @window)
      assert outside.bytes_per_s == 20 * @mib * 1_000 / @window
    end

    test "is 0 where only the VM grows, or memory outside shrinks" do
      assert seen(seen(100, 60, 0), 200, 160, @window).bytes_per_s == 0
      assert seen(seen(100, 60, 0), 90, 60, @window).bytes_per_s == 0
    end

    test "tells nothing within the window, and the last growth within the next" do
      outside = seen(100, 60, 0)
      assert seen(outside, 200, 60, @window - 1) == outside
      grown = seen(outside, 200, 60, @window)
      assert seen(grown, 900, 60, 2 * @window - 1) == grown
      assert seen(grown, 200, 60, 2 * @window).bytes_per_s == 0
    end

    test "forgets where a figure is missing" do
      grown = seen(seen(100, 60, 0), 200, 60, @window)
      report = %{working_set_bytes: 300 * @mib, rss_bytes: nil}
      assert Outside.seen(grown, report, 2 * @window) == %Outside{}
    end
  end
end
