defmodule OOM.BackoffTest do
  use ExUnit.Case, async: true

  alias OOM.Backoff

  # Each run draws a new seed, told on failure.
  setup do
    seed = :rand.uniform(1_000_000_000)
    state = :rand.seed_s(:exsss, seed)
    {:ok, random} = Agent.start_link(fn -> state end)
    uniform = fn -> Agent.get_and_update(random, &:rand.uniform_s/1) end
    integer = fn max -> trunc(uniform.() * max) + 1 end
    %{seed: seed, uniform: uniform, integer: integer}
  end

  test "is at most the ceiling, and never above the cap", context do
    for _ <- 1..2_000 do
      {kills, [initial_ms: initial, max_ms: max] = backoff} = sample(context)
      delay = Backoff.delay_ms(kills, backoff, context.uniform)
      ceiling = min(max, initial * Integer.pow(2, min(kills - 1, 40)))

      assert delay in 1..ceiling,
             "seed #{context.seed}: #{delay} for #{inspect({kills, backoff})}"
    end
  end

  test "doubles until the cap, and stays there", context do
    for _ <- 1..500 do
      {_, [initial_ms: initial, max_ms: max] = backoff} = sample(context)
      ceilings = for kills <- 1..80, do: Backoff.delay_ms(kills, backoff, fn -> 1.0 end)

      assert hd(ceilings) == initial
      assert List.last(ceilings) == max or initial * Integer.pow(2, 30) < max
      assert ceilings == Enum.sort(ceilings), "seed #{context.seed}: #{inspect(backoff)}"

      for [one, next] <- Enum.chunk_every(ceilings, 2, 1, :discard),
          do: assert(next == min(2 * one, max))
    end
  end

  test "grows with the random number, from nothing to the ceiling" do
    backoff = [initial_ms: 1_000, max_ms: 60_000]
    assert Backoff.delay_ms(1, backoff, fn -> 0.0 end) == 1
    assert Backoff.delay_ms(1, backoff, fn -> 0.5 end) == 500
    assert Backoff.delay_ms(1, backoff, fn -> 1.0 end) == 1_000
    assert Backoff.delay_ms(7, backoff, fn -> 1.0 end) == 60_000
  end

  test "is at least a millisecond" do
    assert Backoff.delay_ms(1, [initial_ms: 1, max_ms: 1], fn -> 0.0 end) == 1
  end

  test "spreads children killed together" do
    backoff = [initial_ms: 10_000, max_ms: 60_000]
    delays = for _ <- 1..100, do: Backoff.delay_ms(1, backoff, &:rand.uniform/0)
    assert delays |> Enum.uniq() |> length() > 50
  end

  defp sample(%{integer: integer}) do
    initial = integer.(5_000)
    {integer.(60), [initial_ms: initial, max_ms: initial + integer.(1_000_000) - 1]}
  end
end
