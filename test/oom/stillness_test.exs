defmodule OOM.StillnessTest do
  use ExUnit.Case, async: true

  alias OOM.Stillness

  defp at(bytes), do: %{limit_bytes: 1_000, working_set_bytes: bytes}

  # Returns the pauses after looks at the given working sets.
  defp pauses(sets, least \\ 100, most \\ 1_000) do
    {pauses, _} =
      Enum.map_reduce(sets, Stillness.new(least), fn set, still ->
        still = Stillness.rest(still, set, least, most)
        {still.pause_ms, still}
      end)

    pauses
  end

  test "twice as long each time, up to the longest" do
    assert pauses(List.duplicate(at(500), 6)) == [100, 200, 400, 800, 1_000, 1_000]
  end

  test "as short as ever once memory has moved, up or down" do
    assert pauses([at(500), at(500), at(500), at(511)]) == [100, 200, 400, 100]
    assert pauses([at(500), at(500), at(500), at(489)]) == [100, 200, 400, 100]
  end

  test "less than a hundredth of the limit is none, and slow growth adds up" do
    assert pauses([at(500), at(509), at(491)]) == [100, 200, 400]
    assert pauses([at(500), at(504), at(508), at(512), at(516)]) == [100, 200, 400, 100, 200]
  end

  test "an unknown working set may have moved" do
    nothing = %{limit_bytes: nil, working_set_bytes: nil}
    assert pauses([nothing, nothing, nothing]) == [100, 100, 100]
    assert Stillness.moved?(Stillness.new(1), at(500))
  end

  test "has risen from the lowest look, however far memory has fallen before" do
    still = Stillness.lowest(Stillness.rest(Stillness.new(1), at(500), 1, 1), at(500))
    refute Stillness.risen?(still, at(509))
    assert Stillness.risen?(still, at(510))
    refute Stillness.risen?(still, at(300))

    still = Stillness.lowest(still, at(300))
    assert Stillness.risen?(still, at(310))
    assert Stillness.lowest(still, at(400)) == still
    assert Stillness.lowest(still, %{working_set_bytes: nil}) == still
  end

  test "an unknown working set may have risen" do
    assert Stillness.risen?(Stillness.new(1), at(500))
    still = Stillness.lowest(Stillness.new(1), at(500))
    assert Stillness.risen?(still, %{limit_bytes: nil, working_set_bytes: nil})
    refute Stillness.risen?(still, at(500))
  end

  test "other bounds count at once" do
    still = Stillness.rest(Stillness.new(1), at(500), 1, 5_000)
    still = Stillness.rest(still, at(500), 1_000, 5_000)
    assert still.pause_ms == 1_000
    assert Stillness.rest(still, at(500), 50, 100).pause_ms == 100
  end
end
