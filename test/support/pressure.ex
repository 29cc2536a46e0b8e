defmodule OOM.Test.Pressure do
  @moduledoc false
  # Pressure that is told and not felt: the guard is sent the watcher's messages, with samples that
  # are invented, and does the rest as ever. The accountant stands still meanwhile, so that the
  # figures the test puts are what the guard ranks by.

  alias OOM.{Accountant, Guard, Native, Tables, Victims}

  # More than any victim of a test holds, so that what was promised does not count.
  @jump 1_000_000_000_000

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

    tell(message, :critical, %{
      # Less than nothing is left, so the kill does not wait for a trim.
      headroom_bytes: -1,
      high_headroom_bytes: need_bytes - 1,
      working_set_bytes: System.unique_integer([:positive]) * @jump,
      growth_bytes_per_s: nil,
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
