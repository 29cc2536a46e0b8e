defmodule OOM.EvidenceTest do
  use ExUnit.Case, async: true

  alias OOM.{Evidence, Limits}

  @mib 1_048_576
  @episode 7

  # Looks at a worker repeatedly, each time with `{bytes, ms since the last look}`, or also with whether the
  # worker could have grown since. All looks are in one episode.
  defp looks([{first, _} | others]) do
    start = {Evidence.look(nil, first, @episode), first}

    {evidence, _} =
      Enum.reduce(others, start, fn look, {evidence, last} ->
        {bytes, since_ms, free?} = with {bytes, since_ms} <- look, do: {bytes, since_ms, true}
        {Evidence.look({evidence, last, since_ms, free?}, bytes, @episode), bytes}
      end)

    evidence
  end

  describe "look/3" do
    test "the first shows nothing, however much is held" do
      assert %{grown: 0, shown?: false, episode: @episode} = looks([{500 * @mib, 0}])
    end

    test "two close looks show growth, or no growth" do
      assert %{grown: 2_097_152, shown?: true} = looks([{@mib, 0}, {3 * @mib, 500}])
      assert %{grown: 0, shown?: true} = looks([{@mib, 0}, {@mib, 50}])
      assert %{grown: 0, shown?: true} = looks([{@mib, 0}, {0, 50}])
    end

    test "two looks far apart show nothing: the memory may have come before the growth" do
      assert %{grown: 0, shown?: false} = looks([{0, 0}, {500 * @mib, 501}])
      # The next look shows growth.
      assert %{grown: @mib, shown?: true} = looks([{0, 0}, {500 * @mib, 501}, {501 * @mib, 50}])
    end

    test "growth adds up while seen, and fades" do
      # 40 ms are an eighth of the fading time.
      assert looks([{0, 0}, {@mib, 40}, {2 * @mib, 40}]).grown in div(3 * @mib, 2)..(2 * @mib)
      fades = Limits.grown_ms()
      assert_in_delta looks([{0, 0}, {@mib, 40}, {@mib, fades}]).grown, @mib / 2.72, 0.01 * @mib
      assert looks([{0, 0}, {@mib, 40}, {@mib, 20 * fades}]).grown == 0
    end

    test "growth of a suspended worker does not fade: the worker could not go on" do
      assert looks([{0, 0}, {@mib, 40}, {@mib, 60_000, false}]).grown == @mib
      assert looks([{0, 0}, {@mib, 40}, {3 * @mib, 60_000, false}]).grown == 3 * @mib
      # Fading starts again once the worker may run.
      assert looks([{0, 0}, {@mib, 40}, {@mib, 600, false}, {@mib, 60_000}]).grown == 0
    end

    test "memory given back is no growth, and growth is never negative" do
      assert %{grown: 0, shown?: true} = looks([{0, 0}, {@mib, 40}, {0, 40}])
      # A worker that swings between the same two sizes does not appear to grow more and more.
      swings = for n <- 1..50, do: {rem(n, 2) * @mib, 40}
      assert looks([{0, 0} | swings]).grown <= @mib
    end

    test "growth of another episode fades, whether the worker could go on or not" do
      old = %{grown: 500 * @mib, shown?: true, episode: @episode - 1}
      look = &Evidence.look({old, 500 * @mib, &1, &2}, &3, @episode)

      for free? <- [true, false] do
        faded = look.(Limits.grown_ms(), free?, 500 * @mib)
        assert %{shown?: true, episode: @episode} = faded
        assert_in_delta faded.grown, 500 * @mib / 2.72, @mib
        assert %{grown: 0, shown?: false} = look.(Limits.fresh_ms() + 1, free?, 501 * @mib)
      end
    end

    test "growth is a rate over a short time: over a longer one a part counts, and then nothing" do
      grow = &looks([{0, 0}, {0, 50}, {60 * @mib, &1}])
      assert %{grown: 62_914_560, shown?: true} = grow.(500)
      assert %{grown: 31_457_280, shown?: true} = grow.(1_000)
      assert %{grown: 0, shown?: false} = grow.(Limits.fresh_ms() + 1)
      assert %{grown: 0, shown?: false} = grow.(60_000)
    end

    # Between two steps the worker waits for a timer, like an idle worker.
    test "a worker with steps of 1 MiB each half second is shown to grow all the time" do
      looks = for n <- 1..200, do: {div(n, 25) * @mib, 20}

      for count <- 30..200 do
        assert looks([{0, 0} | Enum.take(looks, count)]).grown >= Limits.grown_bytes()
      end
    end
  end

  describe "a worker that has just started" do
    defp first_look(bytes, since_ms, episode) do
      Evidence.look({Evidence.born(@episode), 0, since_ms, true}, bytes, episode)
    end

    test "has taken its whole size at its first look" do
      for since_ms <- [1, 500] do
        assert %{grown: 5_242_880, shown?: true} = first_look(5 * @mib, since_ms, @episode)
      end
    end

    test "long before its first look is not known to grow" do
      assert %{grown: 2_621_440, shown?: true} = first_look(5 * @mib, 1_000, @episode)

      for since_ms <- [Limits.fresh_ms() + 1, 60_000] do
        assert %{grown: 0, shown?: false} = first_look(5 * @mib, since_ms, @episode)
      end
    end

    test "and waits at its first look has taken it at its start: where nothing follows it fades soon" do
      started = &Evidence.started(Evidence.born(@episode), 5 * @mib, &1, @episode)
      assert %{grown: 5_242_880, shown?: true} = started.(0)
      assert_in_delta started.(Limits.started_ms()).grown, 5 * @mib / 2.72, 10_000
      assert started.(500).grown < Limits.grown_bytes()
      assert %{grown: 0, shown?: false} = started.(Limits.fresh_ms() + 1)

      # Growth fades by the next look, and also without a look.
      at = fn bytes, ms -> Evidence.look({started.(0), 5 * @mib, ms, true}, bytes, @episode) end
      assert_in_delta at.(5 * @mib, Limits.started_ms()).grown, 5 * @mib / 2.72, 10_000
      row = row({1, 1_000, %{evidence: at.(5 * @mib, 0)}})
      later = 1_000 + Limits.started_ms()
      assert_in_delta Evidence.grown_bytes(row, later), 5 * @mib / 2.72, 10_000
      # A worker that takes more after all counts like any worker.
      assert at.(6 * @mib, 0).grown == 6 * @mib
      refute is_map_key(at.(6 * @mib, 0), :started?)
    end

    test "grows on from there, and its growth fades as usual" do
      first = first_look(5 * @mib, 1, @episode)
      at = fn bytes, since -> Evidence.look({first, 5 * @mib, since, true}, bytes, @episode) end
      assert_in_delta at.(8 * @mib, 1).grown, 8 * @mib, 0.02 * @mib
      assert at.(5 * @mib, 20 * Limits.grown_ms()).grown == 0
    end

    test "an episode ago has, where that was a moment ago; else nothing is known" do
      assert %{grown: 5_242_880, shown?: true} = first_look(5 * @mib, 500, @episode + 1)
      assert %{grown: 0, shown?: false} = first_look(5 * @mib, 2_001, @episode + 1)
    end
  end

  describe "a worker's row" do
    defp row(work), do: {self(), 250, 0, 0, :fresh, nil, nil, [], work}

    test "tells the growth shown" do
      row = row({1, 1, %{evidence: %{grown: 5, shown?: true, episode: @episode}}})
      assert Evidence.grown_bytes(row) == 5
      assert Evidence.shown?(row, @episode)
      refute Evidence.shown?(row, @episode + 1)
    end

    test "tells what that is a while later: one that has just started has taken it then" do
      once = first_look(@mib, 1, @episode)
      again = Evidence.look({once, @mib, 1, true}, @mib, @episode)
      soon = 1_000 + Limits.suspect_ms()
      later = soon + Limits.grown_ms()
      assert_in_delta Evidence.grown_bytes(row({1, 1_000, %{evidence: once}}), soon), @mib, 10_000

      assert_in_delta Evidence.grown_bytes(row({1, 1_000, %{evidence: once}}), later),
                      @mib / 2.72,
                      10_000

      # A worker looked at again may be in a collection.
      assert_in_delta Evidence.grown_bytes(row({1, 1_000, %{evidence: again}}), later),
                      @mib,
                      10_000

      for evidence <- [once, again] do
        row = row({1, 1_000, %{evidence: evidence}})
        assert Evidence.grown_bytes(row, soon + Limits.fresh_ms() + 1) == 0
      end

      assert Evidence.grown_bytes(row(nil), soon) == 0
    end

    test "without a look shows nothing" do
      for work <- [nil, {:born, 0, @episode}] do
        assert Evidence.grown_bytes(row(work)) == 0
        refute Evidence.shown?(row(work), @episode)
      end
    end
  end

  describe "suspect?/1" do
    defp suspect?(more, since_ms) do
      evidence = %{grown: 0, shown?: false, episode: @episode, more: more, since_ms: since_ms}
      Evidence.suspect?(row({1, 1, %{evidence: evidence}}))
    end

    test "is a worker larger than at the look before, however long ago" do
      assert suspect?(65_536, 60_000)
      refute suspect?(65_535, 60_000)
      refute suspect?(-@mib, 60_000)
    end

    test "is a worker slightly larger than a moment ago" do
      assert suspect?(65_535, 1)
      refute suspect?(1, 1)
      refute suspect?(0, 0)
    end

    test "is a worker never looked at, or looked at once" do
      assert suspect?(nil, 0)
      assert Evidence.suspect?(row(nil))
      assert Evidence.suspect?(row({:born, 0, @episode}))
    end
  end

  test "a grower has grown by a relevant size, and by a part of the fastest growth" do
    refute Evidence.grower?(65_535, 65_535)
    assert Evidence.grower?(65_536, 65_536)
    assert Evidence.grower?(@mib, 8 * @mib)
    refute Evidence.grower?(@mib - 1, 8 * @mib)
  end

  test "a rank is a cause by its part of all growth, and of recent memory growth" do
    assert Evidence.cause?(10, 80, 40)
    refute Evidence.cause?(10, 81, 40)
    refute Evidence.cause?(10, 80, 41)
    # Without known growth there is no cause.
    refute Evidence.cause?(0, 100, 1)
    refute Evidence.cause?(0, 0, 1)
  end
end
