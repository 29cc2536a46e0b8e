defmodule OOM.Backoff do
  @moduledoc false
  # How long to wait before the n-th return: exponential, capped, with full jitter: anything from a
  # millisecond to the ceiling, all equally likely. Workers killed together so come back spread over
  # all of that time; half of it would bring them back in half of the time, and none before.

  import Bitwise

  @doc "`random` gives a float in 0..1, as `:rand.uniform/0` does."
  @spec delay_ms(pos_integer(), keyword(), (... -> float())) :: pos_integer()
  def delay_ms(kills, [initial_ms: initial, max_ms: max], random) when kills >= 1 do
    # Beyond 2^30 times anything the cap has long decided.
    ceiling = min(max, initial <<< min(kills - 1, 30))
    max(1, trunc(ceiling * random.()))
  end
end
