defmodule OOM.LevelTest do
  # The whole VM has a single level.
  use ExUnit.Case, async: false

  alias OOM.Level

  @levels [:normal, :elevated, :high, :critical]

  setup do
    on_exit(fn -> Level.put(:normal) end)
  end

  test "is the level last put" do
    for level <- @levels ++ Enum.reverse(@levels) do
      :ok = Level.put(level)
      assert Level.get() == level
      assert OOM.level() == level
    end
  end

  test "setup begins at normal, and does not replace the word" do
    word = :persistent_term.get(Level)
    Level.put(:high)
    :ok = Level.setup()
    assert Level.get() == :normal
    assert :persistent_term.get(Level) == word
  end

  test "numbers rise with the level" do
    assert [0, 1, 2, 3] = Enum.map(@levels, &Level.number/1)
  end

  test "admit? turns the low classes away first" do
    admitted =
      for level <- @levels, into: %{} do
        Level.put(level)
        {level, for(class <- [:low, :normal, :high], OOM.admit?(class), do: class)}
      end

    assert admitted == %{
             normal: [:low, :normal, :high],
             elevated: [:low, :normal, :high],
             high: [:normal, :high],
             critical: [:high]
           }
  end

  test "admit? without a class asks for :normal" do
    Level.put(:high)
    assert OOM.admit?()
    Level.put(:critical)
    refute OOM.admit?()
  end

  test "is read without a message, from any process" do
    Level.put(:elevated)

    assert 1..50
           |> Enum.map(&Task.async(fn -> {&1, OOM.level()} end))
           |> Task.await_many()
           |> Enum.all?(&match?({_, :elevated}, &1))
  end
end
