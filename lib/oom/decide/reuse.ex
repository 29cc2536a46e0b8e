defmodule OOM.Reuse do
  @moduledoc false
  # The part of the memory free inside the VM (OOM.Slack) that growth uses: pure.
  #
  # A free block serves only a request on its own scheduler for a block of its kind and size. Where the
  # working set grows although much is free, growth passes the free blocks by: 30 MB lay free while a mailbox
  # took the last 30 MB of the system's memory, and counted as room until the end. Of the memory allocated
  # between two measures, free blocks provided the part that the system did not. Where that part is p, the
  # system provides the rest, and has nothing left once growth has taken headroom / (1 - p), whatever is still
  # free inside.

  alias OOM.Limits

  defstruct last: nil, part: Limits.reuse_unknown()

  @type t :: %__MODULE__{}

  @doc "Records a measure of the VM."
  @spec measured(t(), OOM.Slack.measure()) :: t()
  def measured(%{last: nil} = reuse, measure), do: %{reuse | last: measure}

  def measured(%{last: last, part: part} = reuse, measure) do
    allocated = measure.allocated_bytes - last.allocated_bytes
    given = max(measure.working_set_bytes - last.working_set_bytes, 0)

    part =
      cond do
        # Memory just let go says nothing of the part.
        allocated <= -Limits.moved_bytes() -> max(part, Limits.reuse_unknown())
        max(allocated, given) < Limits.moved_bytes() -> recovered(part)
        given >= allocated -> part / 2
        true -> min((part + (allocated - given) / allocated) / 2, Limits.reuse_most())
      end

    %{reuse | last: measure, part: part}
  end

  defp recovered(part), do: min(part + Limits.reuse_recovers(), Limits.reuse_most())

  @doc "Returns how much of `slack_bytes` counts as room, where the system has `headroom_bytes` left."
  @spec bytes(t(), non_neg_integer(), non_neg_integer()) :: non_neg_integer()
  def bytes(%{part: part}, slack_bytes, headroom_bytes),
    do: min(slack_bytes, trunc(headroom_bytes * part / (1 - part)))
end
