defmodule OOM.Need do
  @moduledoc false
  # How much memory must be freed, from a report: pure. Nothing is needed above the floor, unless growth will
  # have passed the floor by the time a decision takes effect, or a step, which nothing interrupts
  # (OOM.Steps), does not fit.

  alias OOM.{Limits, Promises}

  @typedoc "The watcher's report, with a limit."
  @type report :: %{
          required(:headroom_bytes) => non_neg_integer(),
          required(:critical_headroom_bytes) => pos_integer(),
          required(:working_set_bytes) => non_neg_integer(),
          required(:growth_bytes_per_s) => integer() | nil,
          required(:standing_bytes_per_s) => non_neg_integer() | nil,
          optional(atom()) => term()
        }

  @doc """
  Returns the memory that must still be freed, in bytes; 0 or less where none is needed. `reaction_ms` is the
  time until a decision takes effect, `step_bytes` the largest next step of a growing worker.
  """
  @spec bytes(report(), Promises.t(), pos_integer(), non_neg_integer(), integer()) :: integer()
  def bytes(report, promises, reaction_ms, step_bytes, now_ms) do
    # While memory grows and the system has next to nothing left, memory free inside the VM is no comfort: it
    # may not serve the next allocation.
    short? = grows?(report) and report.headroom_bytes * 4 < report.critical_headroom_bytes * 3
    urgent? = urgent?(report) or short?
    room = report.headroom_bytes + Promises.bytes(promises, report, urgent?, now_ms)
    floor = report.critical_headroom_bytes

    # A node that stands still is healthy; only with next to nothing left is a worker killed to make room.
    at = if report.standing_bytes_per_s || lasts?(report), do: floor, else: at_rest_bytes(report)
    missing = at - (room - coming_bytes(report, reaction_ms))

    if missing > 0 do
      max(target_bytes(report) - room + coming_bytes(report, reaction_ms), missing)
    else
      # A step may pass the floor for a moment, as a healthy collection does. It must not pass the limit.
      max(step_bytes - (room - div(floor, Limits.step_share())), 0)
    end
  end

  @doc "Returns the memory that steady workers must hold to pay for the growth of others, in bytes."
  @spec steady_bytes(report(), integer()) :: integer()
  def steady_bytes(report, need_bytes),
    do: need_bytes + div(growth(report) * Limits.steady_ms(), 1_000)

  @doc "Returns the growth of memory in the time in which growth is remembered, in bytes."
  @spec recent_bytes(report()) :: pos_integer()
  def recent_bytes(report) do
    growth = max(growth(report), Map.get(report, :trend_bytes_per_s) || 0)
    max(div(growth * Limits.grown_ms(), 1_000), Limits.recent_bytes())
  end

  @doc "Returns the memory that workers below `:normal` must hold to pay for growth, in bytes."
  @spec soon_bytes(report(), integer()) :: integer()
  def soon_bytes(report, need_bytes),
    do: need_bytes + div(growth(report) * Limits.soon_ms(), 1_000)

  @doc "Returns the headroom below which memory is needed although nothing grows, in bytes."
  @spec at_rest_bytes(report()) :: pos_integer()
  def at_rest_bytes(report), do: div(report.critical_headroom_bytes, Limits.at_rest_share())

  @doc "Returns the headroom that a round of kills brings back, in bytes."
  @spec target_bytes(report()) :: pos_integer()
  def target_bytes(report), do: trunc(report.critical_headroom_bytes * Limits.target_floors())

  @doc "Returns the growth until a decision takes effect, in bytes."
  @spec coming_bytes(report(), pos_integer()) :: non_neg_integer()
  def coming_bytes(report, reaction_ms), do: div(growth(report) * reaction_ms, 1_000)

  @doc "Tells whether memory grows, as far as decisions go."
  @spec grows?(report()) :: boolean()
  def grows?(report), do: fastest(report) >= Limits.growth_bytes_per_s()

  defp urgent?(report) do
    case left_ms(report) do
      nil -> false
      left_ms -> left_ms < Limits.urgent_ms()
    end
  end

  @doc "Tells whether memory has grown for too long for a single step."
  @spec lasts?(report()) :: boolean()
  def lasts?(report), do: growth(report) >= Limits.growth_bytes_per_s()

  @doc "Returns the time until the limit itself is reached, in ms; `nil` where nothing grows."
  @spec left_ms(report()) :: non_neg_integer() | nil
  def left_ms(report) do
    case growth(report) do
      0 -> nil
      growth -> div(report.headroom_bytes * 1_000, growth)
    end
  end

  # Only growth that has lasted counts. A surge or a drift makes the throttle begin, but neither kills: no
  # worker dies for the first 20 ms of a surge, and a drift is known for longer than the growth lasts.
  # While the throttle is at work growth comes and goes. Then the growth of a whole turn counts, or the growth
  # that went on while all workers stood.
  @doc "Returns the growth that has lasted, in bytes/s, for decisions."
  @spec growth(report()) :: non_neg_integer()
  def growth(%{standing_bytes_per_s: standing, trend_bytes_per_s: trend})
      when is_integer(standing),
      do: Enum.max([standing, trend || 0, 0])

  def growth(report), do: max(report.growth_bytes_per_s || 0, 0)

  defp fastest(report) do
    [:surge_bytes_per_s, :drift_bytes_per_s]
    |> Enum.map(&(Map.get(report, &1) || 0))
    |> Enum.reduce(growth(report), &max/2)
  end
end
