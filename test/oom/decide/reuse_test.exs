defmodule OOM.ReuseTest do
  use ExUnit.Case, async: true

  alias OOM.Reuse

  @mib 1_048_576

  defp measure(allocated, working_set),
    do: %{allocated_bytes: allocated * @mib, working_set_bytes: working_set * @mib}

  defp after_measures(measures) do
    for {allocated, working_set} <- measures, reduce: %Reuse{} do
      reuse -> Reuse.measured(reuse, measure(allocated, working_set))
    end
  end

  defp mib(reuse, slack, headroom),
    do: div(Reuse.bytes(reuse, slack * @mib, headroom * @mib), @mib)

  test "free memory counts in full where the system has enough besides" do
    assert mib(%Reuse{}, 60, 100) == 60
  end

  test "free memory is worth no more than the system can give meanwhile" do
    # Three quarters of growth come from there, and the last quarter from the system.
    assert mib(%Reuse{}, 60, 10) == 30
    assert mib(%Reuse{}, 60, 0) == 0
  end

  test "growth that passes free memory by makes it worth less, each time" do
    once = after_measures([{300, 400}, {310, 410}])
    twice = after_measures([{300, 400}, {310, 410}, {320, 420}])
    assert mib(once, 60, 20) < 20
    assert mib(twice, 60, 20) < mib(once, 60, 20)
  end

  test "growth that uses free memory makes it worth more" do
    used = after_measures([{300, 400}, {310, 400}, {320, 400}])
    assert mib(used, 90, 10) > mib(%Reuse{}, 90, 10)
  end

  test "memory just let go does not count as passed by before" do
    passed_by = [{300, 400}, {310, 410}, {320, 420}]
    assert mib(after_measures(passed_by ++ [{220, 420}]), 60, 20) == mib(%Reuse{}, 60, 20)
  end

  test "growth outside the VM's allocators passes free memory by" do
    assert mib(after_measures([{300, 400}, {300, 410}]), 60, 20) < mib(%Reuse{}, 60, 20)
  end

  test "while nothing moves the past is forgotten" do
    still = for _ <- 1..10, do: {320, 420}
    later = after_measures([{300, 400}, {310, 410}, {320, 420} | still])
    assert mib(later, 60, 20) == 60
  end
end
