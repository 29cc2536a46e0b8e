defmodule OOM.Sweep do
  @moduledoc false
  # Brings back the memory of victims. A block that a foreign scheduler frees waits in a queue of the block's
  # own scheduler, which takes 20 blocks whenever the scheduler picks the next process. With both schedulers
  # busy that is 0.3 MB of messages in a millisecond, so a mailbox of 100 MB is back after 200 ms, and by then
  # the senders have taken the rest of memory. So for a moment one process on each scheduler does nothing but
  # yield. These processes run at top priority: all processes that grow, registered or not, stand still
  # meanwhile. The victim leaves, because the process that kills the victim lends the same priority.
  #
  # A sweep is counted in turns, not in time: a VM that gets a tenth of a core needs ten times as long for the
  # freed memory. A stretch is bounded all the same, and all other processes run between two stretches.

  alias OOM.{Limits, Schedulers}

  # 20 small blocks.
  @turn_bytes 8_192

  @typedoc "The turns each scheduler has still to take, and the time the last stretch ended or will end."
  @type t :: {:atomics.atomics_ref(), integer() | nil}

  @spec new() :: t()
  def new, do: {:atomics.new(:erlang.system_info(:schedulers), signed: true), nil}

  @doc "Adds the turns that bring `bytes` back."
  @spec freed(t(), non_neg_integer()) :: :ok
  def freed({turns, _last}, bytes) do
    for scheduler <- online(),
        do: :atomics.add(turns, scheduler, div(bytes, @turn_bytes))

    :ok
  end

  @doc "Tells whether all freed memory is back."
  @spec over?(t()) :: boolean()
  def over?({turns, _last}), do: Enum.all?(online(), &(:atomics.get(turns, &1) <= 0))

  @doc """
  Begins a stretch where there is memory to bring back, or where victims are about to leave (for at most
  `leave_ms`), unless a stretch is under way or has just ended.
  """
  @spec start(t(), non_neg_integer(), integer()) :: t()
  def start({turns, last_ms} = sweep, leave_ms, now_ms) do
    due? = last_ms == nil or now_ms >= last_ms + Limits.between_sweeps_ms()

    if due? and (leave_ms > 0 or not over?(sweep)) do
      until = now_ms + Limits.longest_sweep_ms()
      left = now_ms + min(leave_ms, Limits.longest_sweep_ms())

      for scheduler <- online(),
          do: Schedulers.spawn_on(scheduler, __MODULE__, :turns, [turns, scheduler, left, until])

      {turns, until}
    else
      sweep
    end
  end

  # No range: a module of Elixir's walks ranges, and the first caller would load the module.
  defp online, do: :lists.seq(1, :erlang.system_info(:schedulers_online))

  @doc false
  @spec turns(:atomics.atomics_ref(), pos_integer(), integer(), integer()) :: :ok
  def turns(turns, scheduler, left_ms, until_ms) do
    :erlang.yield()
    now = System.monotonic_time(:millisecond)
    left = :atomics.sub_get(turns, scheduler, 1)

    cond do
      left < 0 and now >= left_ms -> :atomics.put(turns, scheduler, 0)
      now >= until_ms -> :ok
      true -> turns(turns, scheduler, left_ms, until_ms)
    end
  end
end
