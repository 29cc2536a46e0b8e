defmodule OOM.Accountant.Pace do
  @moduledoc false
  # How often the accountant passes over all workers: pure. In calm time passes are rare, and their share
  # of the CPU is bounded; under pressure passes follow one another.

  alias OOM.Stillness

  # While the working set has not moved since the last pass, the figures hold for the longer of @valid_ms and
  # @valid_times the length of the pass, at most @longest_valid_ms, at every level.
  @valid_ms 60_000
  @valid_times 500
  @longest_valid_ms 300_000

  # The shortest and the longest pause between two looks whether memory has moved. Where growth would reach
  # the floor soon, the guard tells.
  @rest_ms %{
    normal: {5_000, 5_000},
    elevated: {1_000, 1_000},
    high: {100, 1_000},
    critical: {50, 1_000}
  }

  # The pause between passes where memory has moved, {ms, times}: at least so long, and at least so many
  # times the length of the last pass.
  @pause %{
    normal: {5_000, 50},
    elevated: {250, 4},
    high: {10, 2},
    critical: {10, 1}
  }

  @doc "Returns for how many ms the figures of a pass of this length hold while memory stands still."
  @spec valid_ms(non_neg_integer()) :: pos_integer()
  def valid_ms(took_ms),
    do: (took_ms * @valid_times) |> max(@valid_ms) |> min(@longest_valid_ms)

  @doc "Returns the stillness with the pause until the next look, while memory stands still."
  @spec rest(Stillness.t(), OOM.Snapshot.t(), OOM.level()) :: Stillness.t()
  def rest(still, snapshot, level) do
    {least, most} = @rest_ms[level]
    Stillness.rest(still, snapshot, least, most)
  end

  @doc "Returns the pause in ms after a pass of this length."
  @spec pause_ms(OOM.level(), non_neg_integer()) :: pos_integer()
  def pause_ms(level, took_ms) do
    {least, times} = @pause[level]
    max(least, times * took_ms)
  end
end
