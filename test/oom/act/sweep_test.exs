defmodule OOM.SweepTest do
  use ExUnit.Case, async: true

  alias OOM.{Limits, Sweep}

  @mib 1_048_576

  defp now, do: System.monotonic_time(:millisecond)

  # Only the schedulers' turns end the sweep.
  defp wait_until_over(sweep) do
    if Sweep.over?(sweep) do
      :ok
    else
      :erlang.yield()
      wait_until_over(Sweep.start(sweep, 0, now()))
    end
  end

  test "is over where nothing was let go" do
    assert Sweep.over?(Sweep.new())
  end

  test "is due for what was let go, until every scheduler has made its turns" do
    sweep = Sweep.new()
    Sweep.freed(sweep, 10 * @mib)
    refute Sweep.over?(sweep)
    assert :ok = wait_until_over(sweep)
  end

  test "none begins for nothing" do
    assert {_, nil} = Sweep.start(Sweep.new(), 0, 1_000)
  end

  test "holds all others up while victims leave, for a bounded time, and lets them run in between" do
    {_, until} = sweep = Sweep.start(Sweep.new(), 1, now())
    assert until != nil
    assert Sweep.start(sweep, 100, until + Limits.between_sweeps_ms() - 1) == sweep
    assert {_, next} = Sweep.start(sweep, 1, until + Limits.between_sweeps_ms())
    assert next == until + Limits.between_sweeps_ms() + Limits.longest_sweep_ms()
  end

  test "a stretch ends though there is more to bring back" do
    turns = :atomics.new(1, signed: true)
    :atomics.put(turns, 1, 1_000_000_000_000)
    assert Sweep.turns(turns, 1, 0, now()) == :ok
    assert :atomics.get(turns, 1) > 0
  end

  test "turns made for victims that leave are no debt of the next" do
    turns = :atomics.new(1, signed: true)
    assert Sweep.turns(turns, 1, now(), now() + 1_000) == :ok
    assert :atomics.get(turns, 1) == 0
  end
end
