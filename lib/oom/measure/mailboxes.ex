defmodule OOM.Mailboxes do
  @moduledoc false
  # What a long mailbox holds, between two readings: pure.
  #
  # To read it the VM walks all messages, in the worker's own time, and nothing else that concerns the
  # worker is heard meanwhile, its end neither: 110 MB in 120,000 messages take 20 to 30 ms, several times
  # as long where both cores are busy, and each turn of the throttle would ask for it. How many there are
  # costs next to nothing; they are taken to weigh what they weighed at the last reading, until there are
  # twice as many or half.

  # Fewer are walked in less than a millisecond.
  @long 4_000

  @typedoc "How many messages there were at the last reading, and what they held."
  @type reading :: {count :: pos_integer(), bytes :: non_neg_integer()}

  @doc "What so many messages hold by the last reading, or `nil` where it tells too little."
  @spec bytes(reading() | nil, non_neg_integer()) :: non_neg_integer() | nil
  def bytes({count, bytes}, now) when now >= @long and now <= 2 * count and count <= 2 * now,
    do: div(bytes * now, count)

  def bytes(_reading, _now), do: nil
end
