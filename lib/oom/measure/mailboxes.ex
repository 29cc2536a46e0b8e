defmodule OOM.Mailboxes do
  @moduledoc false
  # What a long mailbox holds, between two readings: pure.
  #
  # To read it the VM walks all messages at one go, in the worker's own time: 110 MB in 120,000 messages
  # take 20 to 30 ms of a scheduler, and each turn of the throttle would ask for it. Whoever waits behind it
  # waits on, the guard too, for a third of a second where other programs have most of the CPU; so do the
  # orders to the worker. How many messages there are costs next to nothing. They are taken to weigh what
  # they weighed at the last reading: until there are twice as many or half, while they are few, and for good
  # when they are many.

  # Fewer are walked in less than a millisecond, and more in more than four.
  @few 4_000
  @many 16_000

  @typedoc "How many messages there were at the last reading, and what they held."
  @type reading :: {count :: pos_integer(), bytes :: non_neg_integer()}

  @doc "What so many messages hold by the last reading, or `nil` where it tells too little."
  @spec bytes(reading() | nil, non_neg_integer()) :: non_neg_integer() | nil
  def bytes({count, bytes}, now)
      when now > @many or (now >= @few and now <= 2 * count and count <= 2 * now),
      do: div(bytes * now, count)

  def bytes(_reading, _now), do: nil
end
