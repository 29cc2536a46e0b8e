defmodule OOM.NewcomersTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Level, Newcomers, Workers}

  setup do
    Level.put(:elevated)
    on_exit(fn -> Level.put(:normal) end)
  end

  defp new(rank) do
    pid = idle()
    :ok = Workers.attach(pid, rank, nil, nil, [])
    pid
  end

  defp latest(rank, count \\ 100),
    do: for({_, row} <- Newcomers.latest(rank, count), do: elem(row, 0))

  # Of one millisecond, the order is the order of pids.
  test "the newest workers of a rank come first, and no more than asked for" do
    [a, b, c] = for rank <- [250, 500, 250], do: new(rank)
    assert Enum.sort(latest(250)) == Enum.sort([a, c])
    assert latest(500) == [b]
    assert [_one] = latest(250, 1)

    for {at_ms, _row} <- Newcomers.latest(250, 2),
        do: assert(at_ms <= System.monotonic_time(:millisecond))
  end

  test "nobody is noted at rest" do
    Level.put(:normal)
    new(250)
    assert latest(250) == []
  end

  test "a worker that has ended is none, and its row goes" do
    a = new(250)
    Workers.delete(a)
    assert latest(250) == []
    assert :ets.info(Newcomers, :size) == 0
  end

  test "the table keeps the newest alone" do
    for i <- 1..5_000, do: Newcomers.note(i)
    assert :ets.info(Newcomers, :size) == 4_096
  end
end
