defmodule OOM.Reuse do
  @moduledoc false
  # How much of what lies free inside the VM (OOM.Slack) growth makes use of: pure.
  #
  # A block that is free serves who asks on its scheduler for one of its kind and size. Where the working set
  # grows although much is free, growth passes that by: 30 MB lay free while a mailbox took the last 30 MB
  # of the system's, and counted as room until it was over. Of what was allocated between two measures, what
  # the system did not have to give came from there. Where that is a part p, the system gives the rest, and
  # has nothing left to give when growth has taken its headroom / (1 - p), whatever is still free inside.

  alias OOM.Limits

  defstruct last: nil, part: Limits.reuse_unknown()

  @type t :: %__MODULE__{}

  @doc "At a measure of the VM."
  @spec measured(t(), OOM.Slack.measure()) :: t()
  def measured(%{last: nil} = reuse, measure), do: %{reuse | last: measure}

  def measured(%{last: last, part: part} = reuse, measure) do
    allocated = measure.allocated_bytes - last.allocated_bytes
    given = max(measure.working_set_bytes - last.working_set_bytes, 0)

    part =
      cond do
        # What somebody has just let go is another thing.
        allocated <= -Limits.moved_bytes() -> max(part, Limits.reuse_unknown())
        max(allocated, given) < Limits.moved_bytes() -> recovered(part)
        given >= allocated -> part / 2
        true -> min((part + (allocated - given) / allocated) / 2, Limits.reuse_most())
      end

    %{reuse | last: measure, part: part}
  end

  defp recovered(part), do: min(part + Limits.reuse_recovers(), Limits.reuse_most())

  @doc "What of this slack counts as room, where the system has so much headroom left."
  @spec bytes(t(), non_neg_integer(), non_neg_integer()) :: non_neg_integer()
  def bytes(%{part: part}, slack_bytes, headroom_bytes),
    do: min(slack_bytes, trunc(headroom_bytes * part / (1 - part)))
end
