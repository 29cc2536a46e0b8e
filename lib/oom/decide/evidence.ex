defmodule OOM.Evidence do
  @moduledoc false
  # What a worker has grown by lately, from the figures of its looks: pure. A base follows the figure
  # with a time constant of a second; what the worker holds above it is growth that was seen in this
  # worker, and in no other.

  alias OOM.{Limits, Workers}

  @doc """
  The base after a look: `before` is the base of the last look and its figure, `nil` at the first.
  One that was not there before has grown by all it holds.
  """
  @spec base_bytes({number(), non_neg_integer()} | nil, non_neg_integer()) :: non_neg_integer()
  def base_bytes(nil, _since_ms), do: 0

  def base_bytes({base, figure}, since_ms) do
    share = 1 - :math.exp(-min(since_ms, 60_000) / Limits.grown_ms())
    # It never stays above the figure: who gives memory back and takes it again has grown.
    min(round(base + (figure - base) * share), figure)
  end

  @doc "What this worker has grown by lately; 0 for one that has not been looked at."
  @spec grown_bytes(Workers.row()) :: non_neg_integer()
  def grown_bytes({_, _, bytes, _, _, _, _, _, {_, _, %{base: base}}}), do: max(bytes - base, 0)
  def grown_bytes(_row), do: 0

  @doc "Whether growth by so much matters, where the fastest worker has grown by `most_bytes`."
  @spec grower?(non_neg_integer(), non_neg_integer()) :: boolean()
  def grower?(grown_bytes, most_bytes) do
    grown_bytes >= Limits.grown_bytes() and
      grown_bytes * Limits.grown_share() >= most_bytes
  end
end
