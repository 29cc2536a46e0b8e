defmodule OOM.PolicyTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, Policy}

  @mib 1_048_576
  # Of 512 MiB.
  @floor 28 * @mib

  # At the floor, growing; 1 s to the limit.
  defp report(headroom_mib \\ 20, extra \\ []) do
    Map.merge(
      %{
        headroom_bytes: headroom_mib * @mib,
        critical_headroom_bytes: @floor,
        working_set_bytes: (512 - headroom_mib) * @mib,
        growth_bytes_per_s: 20 * @mib,
        surge_bytes_per_s: 0,
        trend_bytes_per_s: 0,
        standing_bytes_per_s: nil,
        time_to_exhaustion_ms: nil
      },
      Map.new(extra)
    )
  end

  # The limit is reached before a trim could show.
  defp hurried, do: report(1)

  defp victim(mib, rank \\ 250, grown_mib \\ 0),
    do: %{
      pid: spawn(fn -> :ok end),
      rank: rank,
      bytes: mib * @mib,
      grown_bytes: grown_mib * @mib
    }

  defp measure(started_ms, allocated_mib) do
    %{
      started_ms: started_ms,
      allocated_bytes: allocated_mib * @mib,
      unexplained_bytes: 0,
      working_set_bytes: 492 * @mib
    }
  end

  defp decide(policy, report \\ report(), now), do: Policy.decide(policy, report, now)

  defp killed(policy, victims, verdict \\ :growing, now) do
    {_, policy} = decide(policy, now)
    Policy.killed(policy, victims, verdict, report(), now)
  end

  defp limits(policy, now), do: Policy.limits(policy, @mib, report(), 1, now)

  describe "decide/3" do
    test "kills for the need" do
      assert {{:kill, need}, _} = decide(Policy.new(false), 0)
      assert need == Policy.need_bytes(Policy.new(false), report(), 0)
      # 22 MiB to one and a half floors, and the growth of 15 ms.
      assert need == 22 * @mib + div(20 * @mib * 15, 1_000)
    end

    test "waits where nothing is" do
      assert {:wait, _} = decide(Policy.new(true), report(100), 0)
      assert {:wait, _} = decide(Policy.new(true), report(20, growth_bytes_per_s: nil), 0)
    end

    test "waits while the promises cover the need" do
      # Above the floor nothing is needed. Below the floor the need is the whole way back, less the promises.
      policy = killed(Policy.new(false), [victim(9)], 0)
      assert {:wait, _} = decide(policy, 1)
      policy = killed(Policy.new(false), [victim(8)], 0)
      assert {{:kill, need}, _} = decide(policy, 1)
      assert_in_delta need, 14 * @mib, @mib
    end

    test "looks ahead until a victim's memory is back where the growth is outside of the VM" do
      # 100 MiB/s, for 200 ms of a victim of 100 MiB.
      policy = Policy.largest(Policy.new(false), 100 * @mib)
      assert {:wait, _} = decide(policy, report(45, growth_bytes_per_s: 100 * @mib), 0)
      before = report(145, rss_bytes: 100 * @mib)
      now = report(45, growth_bytes_per_s: 100 * @mib, rss_bytes: 100 * @mib)
      policy = policy |> Policy.seen(before, 0) |> Policy.seen(now, 1_000)
      assert {{:kill, _}, _} = decide(policy, now, 1_000)
      # Growth of the VM itself counts for half of the floor at most.
      now = %{now | rss_bytes: 200 * @mib}
      policy = Policy.largest(Policy.new(false), 100 * @mib)
      policy = policy |> Policy.seen(before, 0) |> Policy.seen(now, 1_000) |> Policy.foreign(true)
      assert {:wait, _} = decide(policy, now, 1_000)
    end

    test "needs the promise of a spared victim" do
      victim = victim(23)
      policy = killed(Policy.new(false), [victim], 0)
      assert {{:kill, _}, _} = policy |> Policy.taken_back(victim.pid) |> decide(1)
    end
  end

  describe "a trim" do
    test "comes first, and is given time" do
      assert {:trim, policy} = decide(Policy.new(true), 0)
      assert {:wait, policy} = decide(policy, Limits.trim_settle_ms() - 1)
      assert {{:kill, _}, _} = decide(policy, Limits.trim_settle_ms())
    end

    test "is not waited for when the limit is near" do
      assert {{:trim_and_kill, _}, policy} = decide(Policy.new(true), hurried(), 0)
      assert {{:kill, _}, _} = decide(policy, hurried(), 1)
    end

    test "is repeated while something is needed, not with every sample" do
      {:trim, policy} = decide(Policy.new(true), 0)
      assert {{:kill, _}, policy} = decide(policy, Limits.trim_every_ms() - 1)
      assert {:trim, _} = decide(policy, Limits.trim_every_ms())
    end

    test "never happens where trims are off" do
      assert {{:kill, _}, _} = decide(Policy.new(false), 0)
    end
  end

  describe "throttle?/2" do
    defp throttle?(policy \\ Policy.new(false), extra),
      do: Policy.throttle?(policy, report(200, extra))

    test "where growth will reach the floor soon" do
      soon = [time_to_exhaustion_ms: Limits.throttle_ms() - 1]
      assert throttle?(soon)
      assert throttle?([growth_bytes_per_s: nil, surge_bytes_per_s: 100 * @mib] ++ soon)
      refute throttle?(time_to_exhaustion_ms: Limits.throttle_ms())
      refute throttle?(time_to_exhaustion_ms: nil)
    end

    test "where simultaneous steps do not fit, and something grows" do
      fits = Policy.steps(Policy.new(false), {100 * @mib, 172 * @mib})
      refute throttle?(fits, [])
      crowded = Policy.steps(fits, {100 * @mib, 172 * @mib + 1})
      assert throttle?(crowded, [])
      refute throttle?(crowded, growth_bytes_per_s: nil)
    end

    test "where killing was given up as well: a suspended worker takes nothing" do
      assert throttle?(given_up(), time_to_exhaustion_ms: 1)
    end
  end

  describe "a step that nothing interrupts" do
    test "is made room for while something grows" do
      policy = Policy.steps(Policy.new(false), {60 * @mib, 60 * @mib})
      # Half of the floor stays.
      assert {{:kill, need}, _} = decide(policy, report(60), 0)
      assert need == 14 * @mib
      assert {:wait, _} = decide(policy, report(74), 0)
      assert {:wait, _} = decide(policy, report(60, growth_bytes_per_s: nil), 0)
    end

    test "and while the throttle keeps all from growing" do
      policy = Policy.steps(Policy.new(false), {60 * @mib, 60 * @mib})
      standing = report(60, growth_bytes_per_s: nil, standing_bytes_per_s: 0)
      assert {:wait, _} = decide(policy, standing, 0)
      assert {{:kill, _}, _} = policy |> Policy.throttled(true) |> decide(standing, 0)
    end
  end

  describe "limits/5" do
    test "ask for two looks and for present figures while memory grows" do
      assert %{grows?: true, fresh_ms: fresh} = limits(Policy.new(false), 0)
      assert fresh == Limits.fresh_ms()
      rest = Policy.limits(Policy.new(false), 1, report(1, growth_bytes_per_s: nil), 1, 0)
      assert %{grows?: false, fresh_ms: fresh} = rest
      assert fresh == Limits.fresh_at_rest_ms()
      throttled = Policy.throttled(Policy.new(false), true)
      rest = Policy.limits(throttled, 1, report(1, growth_bytes_per_s: nil), 1, 0)
      assert rest.grows?
      # A surge is no lasting growth.
      surge = [growth_bytes_per_s: nil, surge_bytes_per_s: 100 * @mib]
      refute Policy.limits(Policy.new(false), 1, report(1, surge), 1, 0).grows?
    end

    test "tell the recent growth of memory" do
      assert limits(Policy.new(false), 0).recent_bytes == 6 * @mib
      rest = Policy.limits(Policy.new(false), 1, report(1, growth_bytes_per_s: nil), 1, 0)
      assert rest.recent_bytes == Limits.recent_bytes()
    end

    test "ask for a part of the missing memory while the throttle holds the growers" do
      held = Policy.throttled(Policy.new(false), true)
      recent = &Policy.limits(held, 20 * @mib, report(10, &1), 1, 0).recent_bytes
      assert recent.(growth_bytes_per_s: nil, standing_bytes_per_s: 0) == 10 * @mib
      # Growth of a whole turn is growth.
      grows = [growth_bytes_per_s: nil, standing_bytes_per_s: 0, trend_bytes_per_s: 20 * @mib]
      assert recent.(grows) == 6 * @mib
    end

    test "let workers below :normal pay only with less than three quarters of the floor left" do
      soon = &Policy.limits(Policy.new(false), @mib, report(&1), 1, 0).soon_bytes
      assert soon.(21) == nil
      assert soon.(20) == 3 * @mib
    end

    test "wait for late figures, and then pass them by" do
      policy = Policy.new(false)
      assert limits(policy, 0).late == :wait
      policy = Policy.nobody(policy, :late, report(), 0)
      # The wait counts from the first time.
      policy = Policy.nobody(policy, :late, report(), 500)
      assert limits(policy, Limits.late_ms()).late == :wait
      assert limits(policy, Limits.late_ms() + 1).late == :pass
    end

    test "wait anew when somebody was chosen, and when nothing was needed" do
      late = Policy.nobody(Policy.new(false), :late, report(), 0)
      chosen = killed(late, [victim(1)], 10)
      assert limits(chosen, 1_000).late == :wait
      {:wait, unneeded} = decide(late, report(100), 10)
      assert limits(unneeded, 1_000).late == :wait
      assert limits(Policy.relieved(late), 1_000).late == :wait
    end

    test "let steady workers pay once an episode" do
      policy = Policy.new(false)
      assert is_integer(limits(policy, 0).steady_bytes)
      # One second of growth is added.
      assert limits(policy, 0).steady_bytes == 21 * @mib

      victim = victim(1, 500)
      policy = killed(policy, [victim], :steady, 0)
      assert limits(policy, 1).steady_bytes == nil
      policy = settled(policy, victim, 1)
      assert limits(policy, 100).steady_bytes == nil

      # The episode lasts as long as there is a need.
      {{:kill, _}, policy} = decide(policy, Limits.episode_ms())
      {{:kill, _}, policy} = decide(policy, 2 * Limits.episode_ms())
      assert limits(policy, 2 * Limits.episode_ms()).steady_bytes == nil
      {_, policy} = decide(policy, report(100), 3 * Limits.episode_ms() + 1)
      assert is_integer(limits(policy, 3 * Limits.episode_ms() + 1).steady_bytes)
    end

    test "know the growth of this shortage's victims, and forget it as growth fades" do
      assert limits(Policy.new(false), 0).ended.total_bytes == 0
      policy = killed(Policy.new(false), [victim(9, 250, 8), victim(9, 250, 4)], 0)
      assert %{total_bytes: total, fastest_bytes: fastest} = limits(policy, 0).ended
      assert {total, fastest} == {12 * @mib, 8 * @mib}

      assert_in_delta limits(policy, Limits.grown_ms()).ended.total_bytes,
                      total / 2.718,
                      @mib / 10

      policy = killed(policy, [victim(9, 500, 2)], Limits.grown_ms())
      assert %{fastest_bytes: fastest} = limits(policy, Limits.grown_ms()).ended
      assert_in_delta fastest, 8 * @mib / 2.718, @mib / 10
      assert limits(policy, 10_000).ended.total_bytes == 0
    end

    test "let workers below :normal pay each time" do
      victim = victim(1, 499)
      policy = killed(Policy.new(false), [victim], :steady, 0)
      assert limits(policy, 1).soon_bytes == nil
      policy = settled(policy, victim, 1)
      assert limits(policy, 100).soon_bytes == 3 * @mib
      # Steady workers have already paid for a more important worker in this episode.
      assert limits(policy, 100).steady_bytes == nil
    end

    test "let no steady worker pay before the yield of the last kills is known" do
      victim = victim(1)
      policy = killed(Policy.new(false), [victim], 0)
      assert limits(policy, 1).steady_bytes == nil
      assert is_integer(policy |> settled(victim, 1) |> limits(100) |> Map.get(:steady_bytes))
    end

    test "keep higher ranks out while victims are on their way" do
      victim = victim(1, 250)
      policy = killed(Policy.new(false), [victim], 0)
      assert limits(policy, 1).ceiling == 250
      assert limits(settled(policy, victim, 1), 100).ceiling == 1000
    end
  end

  # The victim is gone, and a measure has shown the fate of its memory.
  defp settled(policy, victim, now) do
    {true, policy} = Policy.gone(policy, victim.pid, now)
    Policy.measured(policy, measure(now + 50, 400), 0)
  end

  test "a reaction takes as long as lately, within bounds" do
    took = fn ms ->
      Enum.reduce(1..10, Policy.new(false), fn _, policy ->
        victim = victim(1)
        {true, policy} = policy |> killed([victim], 0) |> Policy.gone(victim.pid, ms)
        policy
      end)
    end

    # The need includes growth during the reaction.
    base = 22 * @mib
    more = Policy.need_bytes(took.(1), report(), 60_000) - base
    assert_in_delta more, 20 * @mib * Limits.reaction_ms() / 1_000, 1
    more = Policy.need_bytes(took.(40), report(), 60_000) - base
    assert_in_delta more, 20 * @mib * 40 / 1_000, 50_000
    more = Policy.need_bytes(took.(5_000), report(), 60_000) - base
    assert_in_delta more, 20 * @mib * Limits.longest_reaction_ms() / 1_000, 50_000
  end

  describe "killing is given up" do
    test "when nobody was there to kill for a while" do
      policy = nobody(Policy.new(false), 0)
      refute Policy.exhausted?(policy)
      policy = nobody(policy, Limits.nobody_ms() - 1)
      refute Policy.exhausted?(policy)
      policy = nobody(policy, Limits.nobody_ms())
      assert Policy.exhausted?(policy)
      assert {:wait, _} = decide(policy, Limits.nobody_ms() + 1)
    end

    test "not after some time in which nothing was needed" do
      policy = nobody(Policy.new(false), 0)
      {:wait, policy} = decide(policy, report(100), 1)
      refute policy |> nobody(Limits.nobody_ms()) |> Policy.exhausted?()
    end

    test "not while somebody is waited for" do
      policy = Policy.nobody(Policy.new(false), :late, report(), 0)
      refute policy |> Policy.nobody(:late, report(), 10_000) |> Policy.exhausted?()
    end

    test "not while victims are on their way" do
      policy = Policy.new(false) |> killed([victim(10)], 0) |> nobody(1)
      refute policy |> nobody(10_000) |> Policy.exhausted?()
    end

    test "when one window after another frees nothing of the victims' memory" do
      assert {:wait, policy} = decide(rounds(4, fn _ -> 200 end), 10_000)
      assert Policy.exhausted?(policy)
    end

    test "not when the kills free memory" do
      {decision, policy} = decide(rounds(6, &(200 - 30 * &1)), 10_000)
      assert {:kill, _} = decision
      refute Policy.exhausted?(policy)
    end

    test "until the headroom has halved, and then for one window" do
      {:wait, policy} = decide(rounds(4, fn _ -> 200 end), 10_000)
      assert {:wait, policy} = decide(policy, report(10), 10_001)
      assert {{:kill, _}, policy} = decide(policy, report(9), 10_002)
      refute Policy.exhausted?(policy)
    end

    test "until the level has been below critical" do
      {:wait, policy} = decide(rounds(4, fn _ -> 200 end), 10_000)
      assert {{:kill, _}, _} = policy |> Policy.relieved() |> decide(10_001)
    end
  end

  defp nobody(policy, now), do: Policy.nobody(policy, :none, report(), now)
  defp given_up, do: Policy.new(false) |> nobody(0) |> nobody(Limits.nobody_ms())

  # Kills `count` victims of 30 MiB, one per round, each seen by a measure. `allocated` gives the VM's
  # allocated memory after each round, in MiB.
  defp rounds(count, allocated) do
    start = Policy.measured(Policy.new(false), measure(0, allocated.(0)), 0)

    Enum.reduce(1..count, start, fn i, policy ->
      victim = victim(30)
      now = i * 300
      {true, policy} = policy |> killed([victim], now) |> Policy.gone(victim.pid, now + 1)
      Policy.measured(policy, measure(now + 100, allocated.(i)), 0)
    end)
  end
end
