defmodule OOM.Schedulers do
  @moduledoc false
  # Processes bound to one scheduler, at top priority: only the scheduler itself reaches its cache of segments
  # (OOM.Trim) and its queue of freed blocks (OOM.Sweep), and only a process there keeps others away
  # (OOM.Throttle.Narrow).

  @doc "Starts a process on a scheduler."
  @spec spawn_on(pos_integer(), module(), atom(), [term()]) :: pid()
  def spawn_on(scheduler, module, function, args) do
    # OTP does not document the option, and dialyzer goes by the documented ones.
    spawn_opt = :erlang.make_fun(:erlang, :spawn_opt, 4)
    spawn_opt.(module, function, args, scheduler: scheduler, priority: :max)
  end
end
