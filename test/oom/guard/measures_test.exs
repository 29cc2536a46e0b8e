defmodule OOM.Guard.MeasuresTest do
  use ExUnit.Case, async: true

  alias OOM.Guard.Measures
  alias OOM.Limits

  @mib 1_048_576

  defp measure(unexplained, working_set),
    do: %{unexplained_bytes: unexplained * @mib, working_set_bytes: working_set * @mib}

  defp begun, do: elem(Measures.taken(%Measures{}, measure(10, 100), :normal), 1)

  describe "taken/3" do
    test "the measure at the start counts for nothing; later ones count from there" do
      assert {:first, measures} = Measures.taken(%Measures{}, measure(10, 100), :high)
      assert {{slack, _}, _} = Measures.taken(measures, measure(50, 100), :high)
      assert slack == 30 * @mib
    end

    test "tells by how much the working set has moved since the last measure, up or down" do
      assert {{_, moved}, measures} = Measures.taken(begun(), measure(10, 100), :high)
      assert moved == 100 * @mib
      assert {{_, moved}, _} = Measures.taken(measures, measure(10, 93), :high)
      assert moved == 7 * @mib
    end

    test "while all is normal a little slack counts for nothing" do
      assert {{0, _}, _} = Measures.taken(begun(), measure(20, 100), :normal)
      assert {{slack, _}, _} = Measures.taken(begun(), measure(20, 100), :elevated)
      assert slack == 7.5 * @mib
      assert {{slack, _}, _} = Measures.taken(begun(), measure(22, 100), :normal)
      assert slack == 9 * @mib
    end

    test "where memory is not known, before or after the first, nothing changes" do
      for measures <- [%Measures{}, begun()] do
        assert Measures.taken(%{measures | next: :running}, nil, :high) == {nil, measures}
      end
    end
  end

  describe "pause_ms/4" do
    test "until the last kills are settled the next measure follows soon" do
      assert Measures.pause_ms({0, 0}, :normal, false, false) == Limits.measure_after_ms()
    end

    test "nothing follows where all is normal and nothing is free" do
      assert Measures.pause_ms({0, 100 * @mib}, :normal, true, false) == nil
    end

    test "memory that stands still is measured rarely, unless the slack is all there is" do
      at_rest = {20 * @mib, 0}
      assert Measures.pause_ms(at_rest, :normal, true, false) == Limits.measure_at_rest_ms()
      assert Measures.pause_ms(at_rest, :critical, true, false) == Limits.measure_at_rest_ms()
      assert Measures.pause_ms({0, 0}, :critical, true, false) == Limits.measure_idle_ms()
      assert Measures.pause_ms(at_rest, :normal, true, true) < Limits.measure_at_rest_ms()
    end

    test "memory that moves is measured the more often the higher the level is" do
      pauses =
        for level <- [:normal, :elevated, :high, :critical],
            do: Measures.pause_ms({20 * @mib, 2 * @mib}, level, true, false)

      assert pauses == pauses |> Enum.sort(:desc) |> Enum.uniq()
    end
  end

  test "one timer at most, and none beside a measure that runs" do
    measures = Measures.start_in(%Measures{}, 60_000)
    first = measures.next
    second = Measures.start_in(measures, 60_000).next
    assert Process.read_timer(first) == false
    assert is_integer(Process.cancel_timer(second))
    running = %{measures | next: :running}
    assert Measures.start_in(running, 1) == running
    assert Measures.start(running, make_ref()) == running
    # Nothing is measured without a watcher.
    assert Measures.start(%Measures{}, nil) == %Measures{}
  end
end
