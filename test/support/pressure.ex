defmodule OOM.Test.Pressure do
  @moduledoc false
  # Pressure that is told and not felt: the guard is sent the watcher's messages, with samples that
  # are invented, and does the rest as ever. The accountant stands still meanwhile, so that the
  # figures the test puts are what the guard ranks by.

  alias OOM.{Accountant, Guard, Native, Tables, Victims}

  # More than any victim of a test holds, so that what was promised does not count.
  @jump 1_000_000_000_000
  # As small as can be, so that nearly all of the need is what is missing; see OOM.Need.
  @floor_bytes 2
  @target_bytes 3

  @doc "Runs `fun` with the accountant at rest, and with nothing of it outstanding."
  @spec still((() -> result)) :: result when result: term()
  def still(fun) do
    Accountant.pass()
    :sys.suspend(Accountant)

    try do
      fun.()
    after
      :sys.resume(Accountant)
    end
  end

  @doc "A sample that asks for so many bytes; returns who was told to leave."
  @spec sample(:level | :tick, pos_integer()) :: [pid()]
  def sample(message, need_bytes) do
    before = victims()

    # Next to nothing grows, so that the throttle lets all run; and less than nothing is left for it, so
    # that the kill waits for no trim.
    tell(message, :critical, %{
      headroom_bytes: @target_bytes - max(need_bytes, @target_bytes + 1),
      critical_headroom_bytes: @floor_bytes,
      working_set_bytes: System.unique_integer([:positive]) * @jump,
      growth_bytes_per_s: 1,
      surge_bytes_per_s: 0,
      trend_bytes_per_s: 0,
      drift_bytes_per_s: 0,
      time_to_exhaustion_ms: nil
    })

    victims() -- before
  end

  @doc "The end of it."
  @spec relief() :: :ok
  def relief, do: tell(:level, :normal, %{})

  defp tell(message, level, figures) do
    report = Tables.watcher() |> Native.watcher_report() |> Map.merge(figures)
    send(Guard, {:oom_watch, message, %{report | level: level}})
    _ = :sys.get_state(Guard)
    :ok
  end

  defp victims, do: for({pid, _, _} <- :ets.tab2list(Victims), do: pid)
end
