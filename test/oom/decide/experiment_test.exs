defmodule OOM.ExperimentTest do
  use ExUnit.Case, async: true

  alias OOM.Experiment
  alias OOM.Limits.Scan

  @mib 1_048_576

  test "few workers run alone, the one that ran longest ago first" do
    experiment = run(%Experiment{}, [:a], @mib)
    assert Experiment.groups(experiment, [:a, :b, :c], 0) |> List.last() |> is_list()
    assert Experiment.groups(experiment, [:a, :b, :c], 0) |> Enum.sort() == [[:a], [:b], [:c]]
    experiment = experiment |> run([:b], @mib) |> run([:a], @mib)
    assert [[:b], [:a]] = Experiment.groups(experiment, [:a, :b], 0)
  end

  test "many run in groups, and only the members of a group that has grown run alone" do
    pids = Enum.to_list(1..49)
    groups = Experiment.groups(%Experiment{}, pids, 0)
    assert length(groups) <= Scan.runs()
    assert Enum.sort(Enum.concat(groups)) == pids

    [grown | others] = groups
    experiment = Enum.reduce(others, run(%Experiment{}, grown, 5 * @mib), &run(&2, &1, 0))
    assert Experiment.groups(experiment, pids, 0) |> Enum.sort() == Enum.map(grown, &[&1])
    # The others are left out for a moment.
    assert Experiment.clean(experiment, pids, 0) |> Enum.sort() == Enum.sort(Enum.concat(others))
    assert Experiment.clean(experiment, pids, Scan.group_clean_ms()) == []
  end

  test "a worker that takes memory in each run alone is shown to grow, with the sum" do
    experiment = runs(:a, [@mib, 2 * @mib])
    assert shown(experiment) == %{}
    assert Experiment.suspects(experiment) == %{a: true}
    assert shown(run(experiment, [:a], 3 * @mib)) == %{a: 6 * @mib}
  end

  test "slow growth adds up, though the kernel charges it in batches" do
    slow = List.flatten(List.duplicate([0, 256 * 1_024], 5))
    assert shown(runs(:a, slow)) == %{}
    assert Experiment.suspects(runs(:a, slow)) == %{a: true}
    assert %{a: _} = shown(runs(:a, slow ++ slow))
  end

  test "a worker that makes garbage takes memory and gives it back: not shown" do
    for count <- 1..40 do
      garbage = [8, -8] |> Stream.cycle() |> Enum.take(count) |> Enum.map(&(&1 * @mib))
      assert shown(runs(:a, garbage)) == %{}
    end
  end

  test "what comes back while the worker stands is no growth" do
    # It takes 1 MB in each run, and gives it back before the next.
    experiment =
      Enum.reduce(1..20, %Experiment{}, fn _, experiment ->
        Experiment.ran(experiment, [:a], %{bytes: @mib, ms: 1, room: room(0)}, %{}, 0)
      end)

    assert Experiment.shown(experiment, 100 * @mib) == %{}
    assert Experiment.shown(experiment, 99 * @mib) == %{}
  end

  test "workers that make garbage share the loss of the node" do
    # Each of 20 workers takes 2 MB in all, and the node has lost 10 MB.
    experiment =
      for(n <- 1..4, pid <- 1..20, do: {n, pid})
      |> Enum.reduce(%Experiment{}, fn {_, pid}, experiment ->
        run = %{bytes: @mib, ms: 1, room: room(0)}
        Experiment.ran(experiment, [pid], run, %{}, 0)
      end)

    assert Experiment.shown(experiment, 90 * @mib) == %{}
    assert map_size(Experiment.shown(experiment, 20 * @mib)) == 20
  end

  test "up to the peak of the last seconds nothing is shown, below the floor it is" do
    experiment =
      Enum.reduce(0..9, %Experiment{}, fn n, experiment ->
        run = %{bytes: @mib, ms: 1, room: {(50 - n) * @mib, 20 * @mib}}
        Experiment.ran(experiment, [:a], run, %{}, 0)
      end)

    assert Experiment.shown(experiment, 20 * @mib) == %{}
    assert Experiment.shown(experiment, 10 * @mib) == %{a: 10 * @mib}
    assert Experiment.shown(experiment, 0) == %{a: 10 * @mib}
  end

  test "of growth and garbage the growth is shown" do
    # Of 2 MB in each run 1 MB comes back.
    experiment =
      Enum.reduce(0..5, %Experiment{}, fn n, experiment ->
        run = %{bytes: 2 * @mib, ms: 1, room: room(-n * @mib)}
        Experiment.ran(experiment, [:a], run, %{}, 0)
      end)

    assert Experiment.shown(experiment, 94 * @mib) == %{a: 6 * @mib}
  end

  test "the memory of an ended worker says nothing of the others" do
    both =
      Enum.reduce(1..3, %Experiment{}, fn _, it -> it |> run([:a], @mib) |> run([:b], @mib) end)

    assert Map.keys(shown(both)) == [:a, :b]
    # All that :a took is back.
    room = 97 * @mib
    assert both |> Experiment.forget([:a], room) |> Experiment.shown(room) == %{b: 3 * @mib}
  end

  test "growth that the worker's figure shows is not hidden" do
    experiment =
      Enum.reduce(1..8, %Experiment{}, fn n, experiment ->
        run(experiment, [:a], @mib, %{a: n * @mib})
      end)

    assert shown(experiment) == %{}
  end

  test "one large run among many is no growth" do
    assert shown(runs(:a, [20 * @mib, 0, 0, 0, 0])) == %{}
  end

  test "growth that goes on while nobody runs is nobody's" do
    experiment =
      Enum.reduce(1..8, %Experiment{}, fn _, experiment ->
        experiment |> Experiment.control(@mib, 1) |> run([:a], 3 * @mib)
      end)

    assert shown(experiment) == %{}
    # Nor is a group suspected for it.
    assert run(experiment, [:b, :c], 3 * @mib).suspects == %{}
  end

  test "a worker without growth is left out for a while, and judged anew" do
    experiment = runs(:a, List.duplicate(10_000, Scan.judged_runs()))
    assert Experiment.clean(experiment, [:a], 0) == [:a]
    assert experiment.runs == %{}
  end

  test "a worker that does not want to run is no suspect" do
    experiment = %Experiment{} |> run([:a, :b], 5 * @mib) |> Experiment.idle([:a])
    assert experiment.suspects == %{b: true}
  end

  test "of an ended worker nothing is kept" do
    experiment = runs(:a, [@mib, @mib, @mib])
    assert Experiment.forget(experiment, [:a], 0) == %Experiment{count: 3}
  end

  defp runs(pid, bytes), do: Enum.reduce(bytes, %Experiment{}, &run(&2, [pid], &1))

  # The headroom falls by what runs take, and the node has no other growth.
  defp run(experiment, pids, bytes, figures \\ %{}) do
    taken = experiment.runs |> Map.values() |> Enum.map(& &1.bytes) |> Enum.sum()
    run = %{bytes: bytes, ms: 1, room: room(-taken)}
    Experiment.ran(experiment, pids, run, figures, 0)
  end

  # Above the floor, and at the peak.
  defp room(bytes), do: {100 * @mib + bytes, 100 * @mib + bytes}

  defp shown(experiment) do
    taken = experiment.runs |> Map.values() |> Enum.map(& &1.bytes) |> Enum.sum()
    Experiment.shown(experiment, 100 * @mib - taken)
  end
end
