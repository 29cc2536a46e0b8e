defmodule OOM.ReactionTest do
  @moduledoc false
  use ExUnit.Case, async: true

  alias OOM.Reaction

  @mib 1_048_576

  # 512 MiB with the watermarks of :auto, roughly: high at 250 MiB of headroom.
  defp report(headroom_mib, extra \\ []) do
    Map.merge(
      %{
        headroom_bytes: headroom_mib * @mib,
        high_headroom_bytes: 250 * @mib,
        working_set_bytes: (512 - headroom_mib) * @mib,
        time_to_exhaustion_ms: nil,
        growth_bytes_per_s: nil
      },
      Map.new(extra)
    )
  end

  defp victim(mib, rank \\ 250), do: %{pid: spawn(fn -> :ok end), rank: rank, bytes: mib * @mib}

  defp measure(started_ms, allocated_mib, working_set_mib) do
    %{
      started_ms: started_ms,
      allocated_bytes: allocated_mib * @mib,
      unexplained_bytes: 0,
      working_set_bytes: working_set_mib * @mib
    }
  end

  defp kill(reaction, victims, report, now) do
    {_, reaction} = Reaction.decide(reaction, report, now)
    Reaction.killed(reaction, victims, report, now)
  end

  describe "the deficit" do
    test "is the way back to the high watermark" do
      assert {{:kill, need}, _} = Reaction.decide(Reaction.new(false), report(190), 0)
      assert need == 60 * @mib
    end

    test "is more by what grows until the victims are gone" do
      growing = report(190, growth_bytes_per_s: 400 * @mib)
      assert Reaction.need_bytes(Reaction.new(false), growing, 60) == 66 * @mib
      shrinking = report(190, growth_bytes_per_s: -400 * @mib)
      assert Reaction.need_bytes(Reaction.new(false), shrinking, 60) == 60 * @mib
    end

    test "is less by what the victims hold, from the moment they are told to leave" do
      reaction = kill(Reaction.new(false), [victim(40)], report(190), 0)
      assert {{:kill, need}, _} = Reaction.decide(reaction, report(190), 1)
      assert need == 20 * @mib
    end

    test "is the same whether their memory goes back to the system or stays free inside" do
      reaction = kill(Reaction.new(false), [victim(40)], report(190), 0)

      for given_back <- [0, 10, 40] do
        assert Reaction.need_bytes(reaction, report(190 + given_back), 60) == 20 * @mib
      end
    end

    test "grows by what the working set grows, twice: once as usage, once as a broken promise" do
      reaction = kill(Reaction.new(false), [victim(60)], report(190), 0)
      assert Reaction.need_bytes(reaction, report(180), 60) == 20 * @mib
    end

    test "is measured anew: slack takes the place of the promise of those that are gone" do
      gone = victim(40)
      stays = victim(10)
      reaction = kill(Reaction.new(false), [gone, stays], report(190), 0)
      {false, reaction} = Reaction.gone(reaction, gone.pid, 5)
      reaction = Reaction.measured(reaction, measure(60, 200, 322), 25 * @mib)
      # 60 needed; 25 free inside, 10 still on its way
      assert Reaction.need_bytes(reaction, report(190), 61) == 25 * @mib
    end

    test "counts one that has only just gone as promised still" do
      just = victim(40)
      reaction = kill(Reaction.new(false), [just], report(190), 0)
      {true, reaction} = Reaction.gone(reaction, just.pid, 49)
      reaction = Reaction.measured(reaction, measure(50, 200, 322), 0)
      assert Reaction.need_bytes(reaction, report(190), 60) == 20 * @mib
    end

    test "does not count for long on one that does not leave" do
      reaction = kill(Reaction.new(false), [victim(40)], report(190), 0)
      assert Reaction.need_bytes(reaction, report(190), 149) == 20 * @mib
      assert Reaction.need_bytes(reaction, report(190), 150) == 60 * @mib
      # Nor after a measure that finds it still there.
      reaction = Reaction.measured(reaction, measure(160, 200, 322), 10 * @mib)
      assert Reaction.need_bytes(reaction, report(190), 161) == 50 * @mib
    end

    test "counts on a measure for longer" do
      reaction = Reaction.measured(Reaction.new(false), measure(0, 200, 322), 10 * @mib)
      assert Reaction.need_bytes(reaction, report(190), 599) == 50 * @mib
      assert Reaction.need_bytes(reaction, report(190), 600) == 60 * @mib
    end

    test "none is left when the promise covers it" do
      reaction = kill(Reaction.new(false), [victim(60)], report(190), 0)
      assert {:wait, _} = Reaction.decide(reaction, report(190), 1)
    end
  end

  test "room is made for what may be taken in one step" do
    fits = Reaction.step(Reaction.new(false), 140 * @mib)
    refute Reaction.crowded?(fits, report(300))
    assert {:wait, _} = Reaction.decide(fits, report(300), 0)
    crowded = Reaction.step(fits, 330 * @mib)
    assert Reaction.crowded?(crowded, report(300))
    # 210 of the step then fit into half of 420.
    assert {{:kill, need}, _} = Reaction.decide(crowded, report(300), 0)
    assert need == 120 * @mib
    # A trim would not make it smaller.
    crowded = Reaction.step(Reaction.new(true), 330 * @mib)
    assert {{:trim_and_kill, _}, _} = Reaction.decide(crowded, report(300), 0)
  end

  describe "near the end" do
    setup do: %{urgent: report(190, time_to_exhaustion_ms: 50)}

    test "what the victims gave back is not counted on any more", %{urgent: urgent} do
      victim = victim(40)
      reaction = kill(Reaction.new(false), [victim], urgent, 0)
      assert Reaction.need_bytes(reaction, urgent, 40) == 20 * @mib
      {true, reaction} = Reaction.gone(reaction, victim.pid, 40)
      # 40 MiB are back after 15 ms; that the working set stands where it stood tells that others
      # took them.
      assert Reaction.need_bytes(reaction, urgent, 54) == 20 * @mib
      assert Reaction.need_bytes(reaction, urgent, 55) == 60 * @mib
    end

    test "nor on one that does not leave soon", %{urgent: urgent} do
      reaction = kill(Reaction.new(false), [victim(40)], urgent, 0)
      assert Reaction.need_bytes(reaction, urgent, 49) == 20 * @mib
      assert Reaction.need_bytes(reaction, urgent, 50) == 60 * @mib
    end

    test "those in line stand still, unless killing was given up", %{urgent: urgent} do
      assert Reaction.brake?(Reaction.new(false), urgent)
      refute Reaction.brake?(Reaction.new(false), report(190))
      refute Reaction.brake?(Reaction.new(false, 50), urgent)
      reaction = Reaction.nobody(Reaction.new(false), urgent, 0)
      refute reaction |> Reaction.nobody(urgent, 500) |> Reaction.brake?(urgent)
    end

    test "a small figure must be newer, and the busy are taken only when room is short, too",
         %{urgent: urgent} do
      assert Reaction.fresh_ms(urgent) < Reaction.fresh_ms(report(190))
      assert Reaction.busy(urgent) == :spare
      assert Reaction.busy(report(100)) == :spare
      assert Reaction.busy(report(100, time_to_exhaustion_ms: 50)) == :take
    end
  end

  test "killing is worth it for a quarter of what is missing, and near the end for little" do
    assert Reaction.worth_bytes(Reaction.new(false), report(190)) == 15 * @mib
    assert Reaction.worth_bytes(Reaction.new(false), report(10)) == div(10 * @mib, 4)
    assert Reaction.worth_bytes(Reaction.new(false), report(-1)) == 0
  end

  test "killing is not worth it for what growth takes in the next 10 ms" do
    assert Reaction.worth_bytes(Reaction.new(false), report(4, growth_bytes_per_s: 1_000 * @mib)) ==
             10 * @mib
  end

  describe "a trim" do
    test "comes first, and is given time" do
      assert {:trim, reaction} = Reaction.decide(Reaction.new(true), report(190), 0)
      assert {:wait, reaction} = Reaction.decide(reaction, report(190), 10)
      assert {{:kill, _}, _} = Reaction.decide(reaction, report(190), 25)
    end

    test "is not waited for when the limit is near" do
      urgent = report(190, time_to_exhaustion_ms: 50)
      assert {{:trim_and_kill, _}, reaction} = Reaction.decide(Reaction.new(true), urgent, 0)
      assert {{:kill, _}, _} = Reaction.decide(reaction, urgent, 1)
    end

    test "is repeated while it is critical, not with every sample" do
      {:trim, reaction} = Reaction.decide(Reaction.new(true), report(190), 0)
      assert {{:kill, _}, reaction} = Reaction.decide(reaction, report(190), 99)
      assert {:trim, _} = Reaction.decide(reaction, report(190), 100)
    end

    test "never happens where it is off" do
      assert {{:kill, _}, _} = Reaction.decide(Reaction.new(false), report(190), 0)
    end
  end

  describe "ceiling/2" do
    test "keeps the next priority out while victims are on their way" do
      first = victim(10, 250)
      reaction = Reaction.new(false)
      assert Reaction.ceiling(reaction, 0) == 1000
      reaction = kill(reaction, [first], report(190), 0)
      assert Reaction.ceiling(reaction, 10) == 250
      {true, reaction} = Reaction.gone(reaction, first.pid, 11)
      # 5 ms, and one for each MiB.
      assert Reaction.ceiling(reaction, 26) == 250
      assert Reaction.ceiling(reaction, 27) == 1000
    end

    test "but not for ever" do
      reaction = kill(Reaction.new(false), [victim(10, 250)], report(190), 0)
      assert Reaction.ceiling(reaction, 499) == 250
      assert Reaction.ceiling(reaction, 500) == 1000
    end
  end

  describe "unknown/3" do
    defp late(reaction, now_ms), do: Reaction.late(reaction, true, now_ms)

    test "waits for fresh figures at first, if there is time" do
      reaction = late(Reaction.new(false), 1_000)
      assert Reaction.unknown(reaction, report(190), 1_050) == :wait
      assert Reaction.unknown(reaction, report(100, time_to_exhaustion_ms: 10), 1_050) == :take
      near = report(190, time_to_exhaustion_ms: 900)
      assert Reaction.unknown(reaction, near, 1_100) == :wait
      assert Reaction.unknown(reaction, near, 1_101) == :take
      urgent = report(190, time_to_exhaustion_ms: 140)
      assert Reaction.unknown(reaction, urgent, 1_040) == :wait
      assert Reaction.unknown(reaction, urgent, 1_041) == :take
    end

    test "waits longer where growth is slow, and not until nobody is said to be there" do
      reaction = late(Reaction.new(false), 1_000)
      slow = report(190, time_to_exhaustion_ms: 2_500)
      assert Reaction.unknown(reaction, slow, 1_250) == :wait
      assert Reaction.unknown(reaction, slow, 1_251) == :take

      for still <- [report(190), report(190, time_to_exhaustion_ms: 60_000)] do
        assert Reaction.unknown(reaction, still, 1_400) == :wait
        assert Reaction.unknown(reaction, still, 1_401) == :take
        assert Reaction.fresh_ms(still) == 400
      end
    end

    test "counts from when they were late, however long it has been critical" do
      {_, reaction} = Reaction.decide(Reaction.new(false), report(190), 0)
      assert Reaction.unknown(reaction, report(190), 60_000) == :wait
      reaction = reaction |> late(60_000) |> late(60_300)
      assert Reaction.unknown(reaction, report(190), 60_401) == :take
    end

    test "waits anew when they have come, and when none were needed" do
      reaction = late(Reaction.new(false), 1_000)
      assert Reaction.unknown(reaction, report(190), 1_401) == :take

      come = Reaction.late(reaction, false, 1_390)
      assert Reaction.unknown(late(come, 1_400), report(190), 1_401) == :wait

      {:wait, unneeded} = Reaction.decide(reaction, report(300), 1_390)
      assert Reaction.unknown(late(unneeded, 1_400), report(190), 1_401) == :wait
    end
  end

  describe "killing is given up" do
    test "when nobody was there to kill for half a second" do
      reaction = Reaction.nobody(Reaction.new(false), report(190), 0)
      refute Reaction.exhausted?(reaction)
      reaction = Reaction.nobody(reaction, report(190), 499)
      refute Reaction.exhausted?(reaction)
      reaction = Reaction.nobody(reaction, report(190), 500)
      assert Reaction.exhausted?(reaction)
      assert {:wait, _} = Reaction.decide(reaction, report(190), 501)
    end

    test "not while victims are on their way" do
      reaction = kill(Reaction.new(false), [victim(10)], report(190), 0)
      reaction = Reaction.nobody(reaction, report(190), 1)
      reaction = Reaction.nobody(reaction, report(190), 1_000)
      refute Reaction.exhausted?(reaction)
    end

    test "when one window after the other frees nothing of what the victims are said to hold" do
      assert reaction = rounds(4, fn _ -> 200 end)
      assert {:wait, reaction} = Reaction.decide(reaction, report(190), 10_000)
      assert Reaction.exhausted?(reaction)
    end

    test "not when it frees, and not when others grow meanwhile, as then nobody can tell" do
      for allocated <- [&(200 - 30 * &1), &(200 + 30 * &1)] do
        {decision, reaction} = Reaction.decide(rounds(6, allocated), report(190), 10_000)
        assert {:kill, _} = decision
        refute Reaction.exhausted?(reaction)
      end
    end

    test "until the headroom has halved, and then for one window" do
      {:wait, reaction} = Reaction.decide(rounds(4, fn _ -> 200 end), report(190), 10_000)
      assert {:wait, reaction} = Reaction.decide(reaction, report(96), 10_001)
      assert {{:kill, _}, _} = Reaction.decide(reaction, report(94), 10_002)
    end

    test "until the level has been below critical" do
      {:wait, reaction} = Reaction.decide(rounds(4, fn _ -> 200 end), report(190), 10_000)
      assert {{:kill, _}, _} = reaction |> Reaction.relieved() |> Reaction.decide(report(190), 0)
    end
  end

  # Rounds of one victim that holds 30 MiB, each seen by a measure; `allocated` gives what the VM
  # then has, in MiB.
  defp rounds(count, allocated) do
    start = Reaction.measured(Reaction.new(false), measure(0, allocated.(0), 322), 0)

    Enum.reduce(1..count, start, fn i, reaction ->
      victim = victim(30)
      now = i * 300
      reaction = kill(reaction, [victim], report(190), now)
      {true, reaction} = Reaction.gone(reaction, victim.pid, now + 1)
      Reaction.measured(reaction, measure(now + 100, allocated.(i), 322), 0)
    end)
  end
end
