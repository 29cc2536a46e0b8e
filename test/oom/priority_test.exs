defmodule OOM.PriorityTest do
  use ExUnit.Case, async: true

  alias OOM.Priority

  test "names and integers have their ranks" do
    assert Priority.rank!(:low) == 250
    assert Priority.rank!(:normal) == 500
    assert Priority.rank!(:high) == 750
    assert Priority.rank!(:protected) == :protected
    for n <- [0, 1, 250, 999, 1000], do: assert(Priority.rank!(n) == n)
  end

  test "anything else raises and names the expected values" do
    for bad <- [-1, 1001, 1.0, :lowest, nil, "low", {:low, 1}, [], self()] do
      message =
        "expected priority to be :low, :normal, :high, :protected or an integer from 0 to 1000, " <>
          "got: #{inspect(bad)}"

      assert_raise ArgumentError, message, fn -> Priority.rank!(bad) end
      assert Priority.rank(bad) == :error
    end
  end

  test "a rank with a name is told by the name" do
    for name <- [:low, :normal, :high, :protected] do
      assert name |> Priority.rank!() |> Priority.name() == name
    end

    assert Priority.name(251) == 251
  end
end
