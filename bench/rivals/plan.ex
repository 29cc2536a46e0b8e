defmodule Rivals.Plan do
  @moduledoc false
  # The questions of the comparison, and the length of the runs.

  alias Arena.Job
  alias Rivals.Guards

  @enforce_keys [:guards, :shapes, :workers, :rates, :runs, :limit_bytes, :ballast_bytes]
  defstruct [
    :guards,
    :shapes,
    :workers,
    # highest first
    :rates,
    :runs,
    :limit_bytes,
    :ballast_bytes,
    keep_logs?: false
  ]

  @type rate :: pos_integer() | :unlimited
  @type t :: %__MODULE__{}

  # A run at full speed lasts for several rounds of killing and coming back.
  @least_s 5
  # Slow leaks leave the cores idle: as many VMs run at once as leak this much together.
  @bytes_per_s_per_core 60_000_000
  @most_at_once 16

  @spec job(t(), atom(), atom(), rate()) :: Job.t()
  def job(plan, guard, shape, rate) do
    %Job{
      shape: shape,
      workers: plan.workers,
      seconds: seconds(plan, rate),
      limit_bytes: plan.limit_bytes,
      bytes_per_s: rate,
      ballast_bytes: plan.ballast_bytes,
      guard: Guards.guard(guard),
      # The guards are compared on leaks that come back again and again.
      return?: true
    }
  end

  @doc """
  Returns seconds, longer than an unguarded VM lives. The VM's memory besides the ballast is not
  taken off the room, and a quarter comes on top, so a single kill on the way does not last until
  the end.
  """
  @spec seconds(t(), rate()) :: pos_integer()
  def seconds(_plan, :unlimited), do: @least_s

  def seconds(plan, rate),
    do: max(@least_s, div((plan.limit_bytes - plan.ballast_bytes) * 5, rate * 4) + 1)

  @doc "Returns the number of VMs running at once at this rate."
  @spec at_once(t(), rate()) :: pos_integer()
  def at_once(_plan, :unlimited), do: 1

  def at_once(plan, rate) do
    [
      div(@bytes_per_s_per_core * System.schedulers_online(), rate),
      # Half of the free memory: the host must not end the VMs.
      div(available_bytes(), 2 * plan.limit_bytes),
      @most_at_once
    ]
    |> Enum.min()
    |> max(1)
  end

  defp available_bytes do
    [_, kib] = Regex.run(~r/^MemAvailable:\s+(\d+) kB$/m, File.read!("/proc/meminfo"))
    String.to_integer(kib) * 1_024
  end
end
