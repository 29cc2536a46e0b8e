defmodule OOM.Mailboxes do
  @moduledoc false
  # What a long mailbox holds, between two readings: pure.
  #
  # To read it the VM walks all messages, in the worker's own time, and nothing else that concerns the
  # worker is heard meanwhile, its end neither: 110 MB in 120,000 messages take 20 to 30 ms, several times
  # as long where both cores are busy, and each turn of the throttle would ask for it. How many there are
  # costs next to nothing; they are taken to weigh what they weighed at the last reading, until there are
  # many more or fewer, or that is old.

  # Fewer are walked in less than a millisecond.
  @long 4_000
  # Read again when their number has changed by a quarter, and after this time.
  @part 4
  @old_ms 2_000

  @typedoc "How many messages there were at the last reading, what they held, and when that was."
  @type reading :: {count :: pos_integer(), bytes :: non_neg_integer(), at_ms :: integer()}

  @doc "What so many messages hold by the last reading, or `nil` where it tells too little."
  @spec bytes(reading() | nil, non_neg_integer(), integer()) :: non_neg_integer() | nil
  def bytes({count, bytes, at_ms}, now_count, now_ms)
      when now_count >= @long and now_ms - at_ms < @old_ms and
             abs(now_count - count) * @part <= count,
      do: div(bytes * now_count, count)

  def bytes(_reading, _count, _now_ms), do: nil
end
