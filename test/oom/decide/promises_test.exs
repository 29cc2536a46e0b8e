defmodule OOM.PromisesTest do
  use ExUnit.Case, async: true

  alias OOM.Promises

  @mib 1_048_576

  defp victim(mib, rank \\ 250), do: %{pid: spawn(fn -> :ok end), rank: rank, bytes: mib * @mib}
  defp at(working_set_mib), do: %{working_set_bytes: working_set_mib * @mib}

  defp told(promises \\ %Promises{}, victims, now),
    do: Promises.told(promises, victims, at(322), now)

  # In MiB, while there is time.
  defp promised(promises, working_set_mib, now),
    do: div(Promises.bytes(promises, at(working_set_mib), false, now), @mib)

  defp urgent(promises, now), do: div(Promises.bytes(promises, at(322), true, now), @mib)

  defp measure(started_ms, allocated_mib \\ 200) do
    %{
      started_ms: started_ms,
      allocated_bytes: allocated_mib * @mib,
      unexplained_bytes: 0,
      working_set_bytes: 322 * @mib
    }
  end

  describe "the memory of victims" do
    test "is promised from the moment victims are told to leave" do
      assert promised(%Promises{}, 322, 0) == 0
      promises = told([victim(40), victim(10)], 0)
      assert promised(promises, 322, 0) == 50
      assert promises |> told([victim(5)], 1) |> promised(322, 1) == 55
    end

    test "is less by the bytes already back in the system, which are headroom by then" do
      promises = told([victim(40)], 0)
      for back <- [0, 10, 40], do: assert(promised(promises, 322 - back, 60) == 40 - back)
      assert promised(promises, 200, 60) == 0
    end

    test "is less by what the working set grows: it is not used for that" do
      assert [victim(60)] |> told(0) |> promised(332, 60) == 50
    end

    test "is not promised for long where a victim does not leave" do
      promises = told([victim(40)], 0)
      assert promised(promises, 322, 149) == 40
      assert promised(promises, 322, 150) == 0
      # Nor after a measure with the victim still alive: only the 10 MiB free inside count.
      assert promises |> Promises.measured(measure(160), 10 * @mib) |> promised(322, 161) == 10
    end

    test "is taken back for a spared victim" do
      [spared, other] = [victim(40), victim(10)]
      promises = told([spared, other], 0)
      assert promises |> Promises.taken_back(spared.pid) |> promised(322, 1) == 10
      assert promises |> Promises.taken_back(self()) |> promised(322, 1) == 50
      # A spared victim does not leave, so nobody waits for its end.
      promises = promises |> Promises.taken_back(spared.pid) |> Promises.taken_back(other.pid)
      assert Promises.settled?(promises)
    end
  end

  describe "a measure of the VM" do
    test "takes the place of promises of victims that are gone" do
      [gone, stays] = [victim(40), victim(10)]
      {false, promises} = Promises.gone(told([gone, stays], 0), gone.pid, 5)
      promises = Promises.measured(promises, measure(60), 25 * @mib)
      # 25 MiB are free inside, 10 MiB are still on their way.
      assert promised(promises, 322, 61) == 35
    end

    test "does not for a victim that had only just gone" do
      just = victim(40)
      {true, promises} = Promises.gone(told([just], 0), just.pid, 49)
      assert promises |> Promises.measured(measure(50), 0) |> promised(322, 60) == 40
    end

    test "holds for longer than a promise" do
      promises = Promises.measured(%Promises{}, measure(0), 10 * @mib)
      assert promised(promises, 322, 3_999) == 10
      assert promised(promises, 322, 4_000) == 0
    end
  end

  describe "near the end" do
    test "memory the victims gave back is not counted on any more" do
      victim = victim(40)
      promises = told([victim], 0)
      assert urgent(promises, 40) == 40
      {true, promises} = Promises.gone(promises, victim.pid, 40)
      # 40 MiB are back after 15 ms. An unchanged working set then means growth elsewhere.
      assert urgent(promises, 54) == 40
      assert urgent(promises, 55) == 0
    end

    test "nor is a victim that does not leave soon" do
      promises = told([victim(40)], 0)
      assert urgent(promises, 49) == 40
      assert urgent(promises, 50) == 0
    end
  end

  describe "gone/3" do
    test "gone/3" do
      [one, other] = [victim(1), victim(1)]
      promises = told([one, other], 0)
      assert {false, promises} = Promises.gone(promises, one.pid, 3)
      assert {true, promises} = Promises.gone(promises, other.pid, 7)
      assert promises.left_ms == 7
    end

    test "of a process not told to leave tells nothing" do
      assert Promises.gone(%Promises{}, self(), 3) == {false, %Promises{}}
    end
  end

  test "a kill is settled when all victims are gone and a measure has shown the result" do
    victim = victim(10)
    assert Promises.settled?(%Promises{})
    promises = told([victim], 0)
    refute Promises.settled?(promises)
    {true, promises} = Promises.gone(promises, victim.pid, 1)
    refute Promises.settled?(promises)
    # Too early: the victim's memory is still being freed.
    promises = Promises.measured(promises, measure(2), 0)
    refute Promises.settled?(promises)
    assert promises |> Promises.measured(measure(30), 0) |> Promises.settled?()
  end

  test "a kill is under way while victims live, or their memory is being freed" do
    victim = victim(10)
    refute Promises.under_way?(%Promises{}, 0)
    promises = told([victim], 0)
    assert Promises.under_way?(promises, 10_000)
    {true, promises} = Promises.gone(promises, victim.pid, 1)
    # 5 ms, and 1 ms for each MiB.
    assert Promises.under_way?(promises, 16)
    refute Promises.under_way?(promises, 17)
  end

  describe "ceiling/2" do
    test "keeps higher ranks out until the yield of the kills is known" do
      victim = victim(10, 250)
      assert Promises.ceiling(%Promises{}, 0) == 1000
      promises = told([victim], 0)
      assert Promises.ceiling(promises, 10) == 250
      {true, promises} = Promises.gone(promises, victim.pid, 11)
      assert Promises.ceiling(promises, 40) == 250
      assert promises |> Promises.measured(measure(41), 0) |> Promises.ceiling(41) == 1000
    end

    test "but not for ever" do
      promises = told([victim(10, 250)], 0)
      assert Promises.ceiling(promises, 1_499) == 250
      assert Promises.ceiling(promises, 1_500) == 1000
    end
  end

  describe "kills are futile" do
    # Kills `count` victims of 30 MiB, one per round, each seen by a measure. `allocated` gives the VM's
    # allocated memory after each round, in MiB.
    defp rounds(count, allocated) do
      start = Promises.measured(%Promises{}, measure(0, allocated.(0)), 0)

      Enum.reduce(1..count, start, fn i, promises ->
        victim = victim(30)
        now = i * 300
        {true, promises} = promises |> told([victim], now) |> Promises.gone(victim.pid, now + 1)
        Promises.measured(promises, measure(now + 100, allocated.(i)), 0)
      end)
    end

    test "when one window after another frees nothing of the promise" do
      refute Promises.futile?(rounds(3, fn _ -> 200 end))
      assert Promises.futile?(rounds(4, fn _ -> 200 end))
      # A tenth of the promise is enough.
      assert Promises.futile?(rounds(4, &(400 - 2 * &1)))
      refute Promises.futile?(rounds(6, &(400 - 3 * &1)))
    end

    test "not when workers grow meanwhile, as then nobody can tell" do
      refute Promises.futile?(rounds(6, &(200 + 30 * &1)))
    end

    test "not because time passes without any" do
      promises =
        for i <- 1..20, reduce: %Promises{}, do: (p -> Promises.measured(p, measure(i * 300), 0))

      refute Promises.futile?(promises)
    end

    test "until forgiven, for so many windows" do
      promises = rounds(4, fn _ -> 200 end)
      refute promises |> Promises.forgiven() |> Promises.futile?()
      refute promises |> Promises.forgiven(3) |> Promises.futile?()
      assert promises |> Promises.forgiven(4) |> Promises.futile?()
    end
  end

  describe "a sweep" do
    test "is held for leaving victims, until one of them is stuck" do
      assert Promises.leave_ms(%Promises{}, 0) == 0
      victim = victim(40)
      promises = told([victim], 0)
      assert Promises.leave_ms(promises, 10) == OOM.Limits.stuck_ms() - 10
      assert Promises.leave_ms(promises, OOM.Limits.stuck_ms() + 1) == 0
      {true, promises} = Promises.gone(promises, victim.pid, 20)
      assert Promises.leave_ms(promises, 20) == 0
    end

    test "that is not over leaves the yield of the victims open" do
      victim = victim(4)
      {true, gone} = [victim] |> told(0) |> Promises.gone(victim.pid, 1)
      assert gone |> Promises.measured(measure(60), 0) |> Promises.settled?()
      open = gone |> Promises.swept(false) |> Promises.measured(measure(60), 0)
      refute Promises.settled?(open)
      assert Promises.ceiling(open, 60) == victim.rank
    end

    test "brings back the recorded size of a victim" do
      victim = victim(4)
      promises = told([victim], 0)
      assert Promises.leaving_bytes(promises, victim.pid) == 4 * @mib
      assert Promises.leaving_bytes(promises, self()) == 0
    end
  end
end
