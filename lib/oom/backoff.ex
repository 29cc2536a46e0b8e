defmodule OOM.Backoff do
  @moduledoc false
  # The delay before the n-th return: exponential, capped, with full jitter: from a millisecond to the
  # ceiling, all equally likely. Workers killed together come back spread over the whole time. Jitter over
  # half of the time would bring all of them back in one half, and none in the first.

  import Bitwise

  @doc "Returns the delay in ms after `kills` kills. `random` returns a float in 0..1, as `:rand.uniform/0`."
  @spec delay_ms(pos_integer(), keyword(), (... -> float())) :: pos_integer()
  def delay_ms(kills, [initial_ms: initial, max_ms: max], random) when kills >= 1 do
    # Beyond 2^30 times the initial delay, the cap has long decided.
    ceiling = min(max, initial <<< min(kills - 1, 30))
    max(1, trunc(ceiling * random.()))
  end
end
