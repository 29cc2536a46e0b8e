defmodule OOM.CrowdTest do
  use ExUnit.Case, async: true

  alias OOM.{Crowd, Limits}

  @kib 1_024
  @now 10_000

  # Newcomers of 100 KiB, one each ms, the newest first.
  defp newcomers(count, options \\ []) do
    for i <- 1..count,
        do: {@now - i * Keyword.get(options, :every_ms, 1), victim(i, options)}
  end

  defp victim(number, options) do
    state = Keyword.get(options, :state, :fresh)
    bytes = if state == :new, do: 0, else: Keyword.get(options, :kib, 100) * @kib
    %{pid: number, bytes: bytes, state: state, grown_bytes: 0}
  end

  defp choose(newcomers, changed \\ []) do
    bounds = %{
      need_bytes: 1_000 * @kib,
      min_bytes: 16 * @kib,
      crowd_bytes: 0,
      total_bytes: 0,
      recent_bytes: 30_000 * @kib,
      full?: false,
      now_ms: @now
    }

    with [_ | _] = victims <- Crowd.choose(newcomers, Map.merge(bounds, Map.new(changed))),
         do: Enum.map(victims, & &1.pid)
  end

  test "the newest go, for the need and for what comes until the next walk" do
    # 10 cover the need, and 100 come in 100 ms.
    assert choose(newcomers(300)) == Enum.to_list(1..110)
  end

  test "workers that came earlier go for the need alone" do
    old = for i <- 1..300, do: {@now - 5_000 - i, victim(1_000 + i, [])}
    few = newcomers(5)
    recent = 2_000 * @kib
    # 500 KiB have come lately; another 167 KiB come.
    assert choose(few ++ old, recent_bytes: recent) ==
             Enum.to_list(1..5) ++ Enum.to_list(1_001..1_005)
  end

  test "newcomers are no cause of growth much larger than they are" do
    # 300 of 100 KiB in the time in which growth is remembered.
    assert choose(newcomers(300), recent_bytes: Limits.cause_share() * 30_000 * @kib) != nil
    assert choose(newcomers(300), recent_bytes: Limits.cause_share() * 30_001 * @kib) == nil
    assert choose(newcomers(300), total_bytes: Limits.grown_share() * 30_001 * @kib) == nil
    # Only those of that time count.
    assert choose(newcomers(300, every_ms: 1_000)) == nil
  end

  test "newcomers that come no more are no cause of the growth that goes on" do
    earlier =
      for {at_ms, victim} <- newcomers(300), do: {at_ms - div(Limits.grown_ms(), 2), victim}

    assert choose(earlier) == nil
  end

  test "the last victims count, as long as their growth is remembered" do
    assert choose(newcomers(10)) == nil
    assert choose(newcomers(10), crowd_bytes: 10_000 * @kib) == Enum.to_list(1..10)
  end

  test "a newcomer without a figure counts as the others, and none counts where no figure is known" do
    mixed =
      newcomers(2, state: :new) ++
        for {at, v} <- newcomers(298), do: {at - 2, %{v | pid: v.pid + 2}}

    assert [1, 2, 3 | _] = victims = choose(mixed)
    assert length(victims) == 110
    assert choose(newcomers(300, state: :new)) == nil
    assert choose([]) == nil
  end

  test "workers too small to free anything stay" do
    assert choose(newcomers(300, kib: 15), recent_bytes: 1) == nil
  end

  test "where more have come than were looked at, they have come at the same rate" do
    # 100 in 100 ms, so 300 in 300.
    recent = Limits.cause_share() * 30_000 * @kib
    assert choose(newcomers(100), recent_bytes: recent) == nil
    assert choose(newcomers(100), recent_bytes: recent, full?: true) != nil
  end
end
