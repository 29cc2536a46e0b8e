defmodule OOM.StretchesTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, Stretches}

  test "a stretch begins with the first stand, and ends when one is let run" do
    stretches = Stretches.begun(%{}, [:a, :b], 100)
    assert Stretches.begun(stretches, [:a, :c], 120) == %{a: 100, c: 120}
    assert Stretches.only(stretches, %{a: true}) == %{a: 100}
  end

  test "a worker not shown to grow has to run at its end, and a shown grower does not" do
    end_ms = 100 + Limits.longest_stand_ms()
    stretches = %{a: 100, b: 90, c: 110}
    assert Stretches.due_ms(stretches, %{b: true}) == end_ms
    assert Stretches.due(stretches, %{b: true}, end_ms) == [:a]
    assert Stretches.due(stretches, %{b: true}, end_ms - 1) == []
    assert Stretches.due_ms(stretches, %{a: true, b: true, c: true}) == :infinity
  end
end
