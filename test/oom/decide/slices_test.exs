defmodule OOM.SlicesTest do
  use ExUnit.Case, async: true

  alias OOM.Slices

  @mib 1_048_576
  # Of 512 MiB.
  @floor 28 * @mib

  # In MiB; `{id, mib}` took so much in 1 ms, or `{id, mib, ms}`.
  defp costs(list) do
    for took <- list, into: %{} do
      {id, mib, ms} = with {id, mib} <- took, do: {id, mib, 1}
      {id, {mib * @mib, ms}}
    end
  end

  defp choose(ids, costs, distance_mib, options \\ []) do
    steps = options[:steps] || %{}
    pids = for id <- ids, do: {id, Map.get(steps, id, 0) * @mib}
    busy = options[:busy] && options[:busy] * @mib
    Slices.choose(pids, costs, {distance_mib * @mib, @floor}, options[:last_ms] || 1, busy)
  end

  describe "choose/5" do
    test "lets workers run whose last runs fit together into a quarter of the memory left" do
      costs = costs(a: 10, b: 10, c: 10)
      assert {[:a, :b], 1, [:c]} = choose([:a, :b, :c], costs, 80)
      assert {[:c, :b], 1, [:a]} = choose([:c, :b, :a], costs, 80)
      assert {[:a, :b, :c], _, []} = choose([:a, :b, :c], costs, 120)
    end

    test "passes a worker by that does not fit, for workers that do" do
      assert {[:a, :c], 1, [:large]} = choose([:a, :large, :c], costs(a: 5, large: 50, c: 5), 80)
    end

    test "lets at least one worker run, at any cost, even with nothing left" do
      assert {[:a], 1, []} = choose([:a], costs(a: 500), 0)
      assert {[:a], 1, [:b]} = choose([:a, :b], costs(a: 500, b: 500), 0)
    end

    test "at the floor a part of the floor may be taken" do
      # An eighth of 28 MiB.
      assert {[:a, :b], 1, [:c]} = choose([:a, :b, :c], costs(a: 1, b: 2, c: 1), 0)
    end

    test "takes a worker that has not run yet for a large one" do
      assert {[:a], 1, [:new]} = choose([:a, :new], costs(a: 1), 60)
      assert {[:a, :new], _, []} = choose([:a, :new], costs(a: 1), 68)
    end

    test "takes a new worker for as large as the largest of the known ones" do
      costs = costs(a: 1, b: 1, c: 2)
      assert {[:a, :new], 1, [:other]} = choose([:a, :new, :other], costs, 16)
      assert {[:a, :new, :other], _, []} = choose([:a, :new, :other], costs, 20)
    end

    test "counts the coming step of a worker, where the step is larger" do
      assert {[:a], 1, [:b]} = choose([:a, :b], costs(a: 1, b: 1), 80, steps: %{b: 20})
      assert {[:a, :b], _, []} = choose([:a, :b], costs(a: 1, b: 1), 84, steps: %{b: 20})
    end

    test "while a worker is in a collection, workers about to begin one wait, and the rest runs" do
      costs = costs(a: 1, b: 1, c: 1)
      assert {[:b, :a], _, []} = choose([:b, :a], costs, 100, steps: %{b: 20})
      assert {[:a, :c], 1, [:b]} = choose([:b, :a, :c], costs, 100, steps: %{b: 20}, busy: 27)
      assert {[], 1, [:b]} = choose([:b], costs, 50, steps: %{b: 20}, busy: 27)
      # There is room for both.
      assert {[:b], _, []} = choose([:b], costs, 107, steps: %{b: 20}, busy: 27)
    end

    test "lets nobody run beside workers that run anyway, where no cost fits" do
      assert {[], 1, [:a]} = choose([:a], costs(a: 23), 0, busy: 0)
      assert {[:a], _, []} = choose([:a], costs(a: 3), 0, busy: 0)
    end

    test "where all may run, they run as long as the costs fit, and at most twice the last time" do
      assert {_, 2, []} = choose([:a], costs(a: 1), 400)
      assert {_, 8, []} = choose([:a], costs(a: 1), 400, last_ms: 4)
      # In 10 ms 40 MiB were taken; 20 fit.
      assert {_, 5, []} = choose([:a], costs([{:a, 40, 10}]), 80, last_ms: 10)
      # A turn never gets so long that throttling ends.
      assert {_, 100, []} = choose([:a], costs(a: 0), 400, last_ms: 100)
    end

    test "of nobody is nobody" do
      assert {[], _, []} = choose([], %{}, 80)
    end
  end

  describe "fits?/3" do
    test "is whether a step passes the floor by no more than half, beside the steps under way" do
      assert Slices.fits?(54 * @mib, {40 * @mib, @floor}, 0)
      refute Slices.fits?(54 * @mib + 1, {40 * @mib, @floor}, 0)
      refute Slices.fits?(54 * @mib, {40 * @mib, @floor}, 1)
    end

    test "no step always fits" do
      assert Slices.fits?(0, {0, @floor}, 500 * @mib)
    end
  end

  describe "crowded?/3" do
    test "is whether the largest steps, one on each scheduler, do not fit above the floor together" do
      steps = [1 * @mib, 90 * @mib, 93 * @mib]
      refute Slices.crowded?(steps, 183 * @mib, 2)
      assert Slices.crowded?(steps, 183 * @mib - 1, 2)
      refute Slices.crowded?(steps, 93 * @mib, 1)
      refute Slices.crowded?([], 0, 2)
    end
  end

  describe "costs/4" do
    test "are the growth of the worker's figure, and its part of memory's further growth" do
      own = %{a: 10 * @mib, b: 0}
      assert Slices.costs(%{}, own, 10 * @mib, 1) == costs(a: 10, b: 0)
      assert Slices.costs(%{}, own, 14 * @mib, 1) == costs(a: 12, b: 2)
      # The memory was present already.
      assert Slices.costs(%{}, own, 0, 1) == costs(a: 10, b: 0)
    end

    test "are not forgotten at once by a cheap run, and grow at once" do
      costs = costs(a: 16, b: 2)
      assert %{a: {8_388_608, 3}, b: {2_097_152, 1}} = Slices.costs(costs, %{a: 0}, 0, 3)
      assert %{b: {4_194_304, 3}} = Slices.costs(costs, %{b: 4 * @mib}, 0, 3)
    end

    test "stay where nobody ran" do
      assert Slices.costs(costs(a: 1), %{}, 99 * @mib, 1) == costs(a: 1)
    end
  end

  describe "late/4" do
    test "keeps the cost of a worker that had no turn, known or assumed, for seconds" do
      assert %{a: {a, 3}, new: {new, 3}} = Slices.late(costs(a: 4), [:a, :new], 3, 16)
      assert {a, new} == {4 * @mib - div(4 * @mib, 16), 15 * @mib}
      # With three known costs, the highest of them is assumed.
      assert %{new: {bytes, 1}} = Slices.late(costs(a: 1, b: 2, c: 4), [:new], 1, 16)
      assert bytes == 4 * @mib - div(4 * @mib, 16)
      # Workers that wait tell nothing of the others.
      assert %{new: {bytes, 1}} = Slices.late(costs(a: 0, b: 0, c: 0), [:new], 1, 16)
      assert bytes == 15 * @mib
    end

    test "stay where all had a turn" do
      assert Slices.late(costs(a: 1), [], 1, 16) == costs(a: 1)
    end
  end

  describe "calm?/4" do
    test "is whether the running workers would not reach the floor in time" do
      costs = costs([{:a, 10, 5}, {:b, 1, 1}])
      # 3 MiB/ms.
      assert Slices.calm?([:a, :b], costs, 900 * @mib, 300)
      refute Slices.calm?([:a, :b], costs, 899 * @mib, 300)
      assert Slices.calm?([:b], costs, 300 * @mib, 300)
    end

    test "is not known of a worker that has not run yet" do
      refute Slices.calm?([:new], %{}, 900 * @mib, 300)
      assert Slices.calm?([], %{}, 0, 300)
    end
  end
end
