defmodule OOM.Test.Pressure do
  @moduledoc false
  # Simulated pressure: the guard is sent the watcher's messages, with invented samples, and does
  # the rest as ever. The accountant stands still meanwhile, so the guard ranks by the figures of
  # the test.

  import OOM.Test.Eventually

  alias OOM.{Accountant, Guard, Native, Tables, Victims}

  # More than any victim of a test holds, so promised memory does not count.
  @jump 1_000_000_000_000
  # As small as possible, so nearly the whole need is missing; see OOM.Need.
  @floor_bytes 2
  @target_bytes 3

  @doc "Runs `fun` with the accountant at rest, and with none of its work outstanding."
  @spec still((() -> result)) :: result when result: term()
  def still(fun) do
    eventually(&at_rest?/0)

    try do
      fun.()
    after
      :sys.resume(Accountant)
    end
  end

  # A probe left behind at a worker without an answer writes the worker's real figure later, on a busy machine.
  defp at_rest? do
    Accountant.pass()
    :sys.suspend(Accountant)
    state = :sys.get_state(Accountant)
    rest? = state.rest == nil and state.probes == %{} and state.waiting == %{}
    unless rest?, do: :sys.resume(Accountant)
    rest?
  end

  @doc "Sends a sample asking for so many bytes; returns the victims."
  @spec sample(:level | :tick, pos_integer()) :: [pid()]
  def sample(message, need_bytes) do
    before = victims()

    # Next to nothing grows, so the throttle lets all run; and less than nothing is left, so the
    # kill waits for no trim.
    tell(message, :critical, %{
      headroom_bytes: @target_bytes - max(need_bytes, @target_bytes + 1),
      critical_headroom_bytes: @floor_bytes,
      working_set_bytes: System.unique_integer([:positive]) * @jump,
      growth_bytes_per_s: 1,
      surge_bytes_per_s: 0,
      trend_bytes_per_s: 0,
      drift_bytes_per_s: 0,
      peak_bytes: 0,
      time_to_exhaustion_ms: nil
    })

    victims() -- before
  end

  @doc "Ends the pressure."
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
