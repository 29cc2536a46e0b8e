defmodule OOM.RecentKillsTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Kill, RecentKills, Workers}

  test "tells whether a kill of a rank or a higher rank happened within the last second" do
    refute RecentKills.any?(0, 0)
    RecentKills.note(250, 5_000)
    for rank <- [0, 249, 250], do: assert(RecentKills.any?(rank, 6_000))
    refute RecentKills.any?(251, 6_000)
    refute RecentKills.any?(250, 6_001)
    refute RecentKills.any?(:protected, 5_000)
    RecentKills.note(500, 1_000)
    refute RecentKills.any?(251, 6_000)
  end

  test "and whether victims may still be on their way" do
    RecentKills.note(1, 5_000)
    assert RecentKills.on_their_way?(5_250)
    refute RecentKills.on_their_way?(5_251)
  end

  test "is noted with each kill of a known worker" do
    pid = idle()
    Workers.declare(pid, 321)
    Kill.begin(pid, nil, 7, 5_000, 1_000)
    assert RecentKills.any?(321, 5_000)
    refute RecentKills.any?(322, 5_000)
    # An unknown process has no rank.
    Kill.begin(idle(), nil, 7, 50_000, 1_000)
    refute RecentKills.any?(0, 50_000)
  end

  test "without the tables there are none" do
    :ok = stop_supervised(OOM.Tables)
    refute RecentKills.any?(0, 0)
  end
end
