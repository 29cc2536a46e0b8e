defmodule Arena.Pace do
  @moduledoc false
  # Keeps a grower, of `share` in all, at a part of the rate; does nothing without a rate.

  @enforce_keys [:bytes_per_s, :begun_ms]
  defstruct [:bytes_per_s, :begun_ms, bytes: 0]

  @spec new(Arena.Job.t(), pos_integer()) :: %__MODULE__{} | nil
  def new(%{bytes_per_s: :unlimited}, _share), do: nil

  def new(%{bytes_per_s: all}, share),
    do: %__MODULE__{bytes_per_s: max(div(all, share), 1), begun_ms: now()}

  @doc "Waits until the `bytes` taken are due."
  def wait(nil, _bytes), do: nil

  def wait(pace, bytes) do
    pace = %{pace | bytes: pace.bytes + bytes}
    ahead_ms = div(pace.bytes * 1_000, pace.bytes_per_s) - (now() - pace.begun_ms)
    if ahead_ms > 1, do: Process.sleep(ahead_ms)
    pace
  end

  defp now, do: System.monotonic_time(:millisecond)
end
