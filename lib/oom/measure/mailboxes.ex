defmodule OOM.Mailboxes do
  @moduledoc false
  # Estimates the bytes of a long mailbox between two readings: pure.
  #
  # For a reading the VM walks all messages at one go, in the worker's own time: 110 MB in 120,000 messages
  # take 20 to 30 ms of a scheduler, and each turn of the throttle would ask again. Processes queued behind
  # the walk wait, the guard too, for a third of a second where other programs have most of the CPU; so do
  # the orders to the worker. The number of messages costs next to nothing to read. The estimate takes the
  # average weight at the last reading: from @few messages on until the number has doubled or halved, above
  # @many for good. Below @few each look reads.

  # The VM walks fewer than @few messages in less than a millisecond, and more than @many in over four.
  @few 4_000
  @many 16_000

  @typedoc "The number of messages at the last reading, and their bytes."
  @type reading :: {count :: pos_integer(), bytes :: non_neg_integer()}

  @doc "Returns the bytes of so many messages by the last reading; `nil` where a new reading is due."
  @spec bytes(reading() | nil, non_neg_integer()) :: non_neg_integer() | nil
  def bytes({count, bytes}, now)
      when now > @many or (now >= @few and now <= 2 * count and count <= 2 * now),
      do: div(bytes * now, count)

  def bytes(_reading, _now), do: nil
end
