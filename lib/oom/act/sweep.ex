defmodule OOM.Sweep do
  @moduledoc false
  # Brings back what victims held. A block that another scheduler than its own frees waits in a queue of its
  # own one, which takes 20 of them whenever it chooses the next process. Where both schedulers are busy that
  # is 0.3 MB of messages in a millisecond, and the memory of a mailbox of 100 MB is back after 200 ms; those
  # who filled it have taken the rest by then. So for a moment one process on each scheduler does nothing but
  # give its turn away. It runs at top priority: whoever makes the growth, registered or not, stands still
  # meanwhile, and the victim, which has that priority from who kills it, leaves.
  #
  # The moment is bounded: nobody is kept from running for longer than by the throttle.

  alias OOM.Limits

  @doc """
  Begins one of so many ms, unless one is under way or has just been; `last_ms` is when the last one ended
  or will end. Returns that of the next.
  """
  @spec start(integer() | nil, non_neg_integer(), integer()) :: integer() | nil
  def start(last_ms, 0, _now_ms), do: last_ms

  def start(last_ms, ms, now_ms) do
    if last_ms == nil or now_ms >= last_ms + Limits.between_sweeps_ms() do
      until = now_ms + min(ms, Limits.longest_sweep_ms())
      run(until, :erlang.system_info(:schedulers_online))
      until
    else
      last_ms
    end
  end

  defp run(_until, 0), do: :ok

  defp run(until, scheduler) do
    # OTP does not document the option, and dialyzer goes by the documented ones.
    spawn_opt = :erlang.make_fun(:erlang, :spawn_opt, 4)
    _pid = spawn_opt.(__MODULE__, :turns, [until], scheduler: scheduler, priority: :max)
    run(until, scheduler - 1)
  end

  @doc false
  @spec turns(integer()) :: :ok
  def turns(until) do
    :erlang.yield()
    if now() < until, do: turns(until), else: :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
