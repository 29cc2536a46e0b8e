defmodule OOM.Need do
  @moduledoc false
  # How much must be freed, from a report: pure. Nothing is needed above the floor, unless growth will
  # have passed it by the time a decision taken now has taken effect, or a step that nothing can
  # interrupt (OOM.Steps) does not fit.

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
  Bytes that must still be freed; 0 or less where nothing is. `reaction_ms` is what a decision takes to
  take effect, `step_bytes` the largest step that a worker which grows is about to take.
  """
  @spec bytes(report(), Promises.t(), pos_integer(), non_neg_integer(), integer()) :: integer()
  def bytes(report, promises, reaction_ms, step_bytes, now_ms) do
    # While memory grows and next to nothing is left to the system, what lies free inside the VM is no
    # comfort: the next allocation may be one that it cannot serve.
    short? = grows?(report) and report.headroom_bytes * 4 < report.critical_headroom_bytes * 3
    urgent? = urgent?(report) or short?
    room = report.headroom_bytes + Promises.bytes(promises, report, urgent?, now_ms)
    floor = report.critical_headroom_bytes
    # A node that stands still is healthy; where next to nothing is left somebody makes room.
    at = if report.standing_bytes_per_s || lasts?(report), do: floor, else: at_rest_bytes(report)
    missing = at - (room - coming_bytes(report, reaction_ms))

    if missing > 0 do
      max(target_bytes(report) - room + coming_bytes(report, reaction_ms), missing)
    else
      # A step may pass the floor for a moment, as a healthy collection does. It must not pass the limit.
      max(step_bytes - (room - div(floor, Limits.step_share())), 0)
    end
  end

  @doc "The same where steady workers would pay for the growth of others."
  @spec steady_bytes(report(), integer()) :: integer()
  def steady_bytes(report, need_bytes),
    do: need_bytes + div(growth(report) * Limits.steady_ms(), 1_000)

  @doc "What memory has grown by in the time in which growth is remembered."
  @spec recent_bytes(report()) :: pos_integer()
  def recent_bytes(report) do
    growth = max(growth(report), Map.get(report, :trend_bytes_per_s) || 0)
    max(div(growth * Limits.grown_ms(), 1_000), Limits.recent_bytes())
  end

  @doc "And where those pay that were said to be worth less than others, each time it takes them."
  @spec soon_bytes(report(), integer()) :: integer()
  def soon_bytes(report, need_bytes),
    do: need_bytes + div(growth(report) * Limits.soon_ms(), 1_000)

  @doc "The headroom below which something is needed although nothing grows."
  @spec at_rest_bytes(report()) :: pos_integer()
  def at_rest_bytes(report), do: div(report.critical_headroom_bytes, Limits.at_rest_share())

  @doc "The headroom that a round of kills brings back."
  @spec target_bytes(report()) :: pos_integer()
  def target_bytes(report), do: trunc(report.critical_headroom_bytes * Limits.target_floors())

  @doc "What will have grown until a decision takes effect."
  @spec coming_bytes(report(), pos_integer()) :: non_neg_integer()
  def coming_bytes(report, reaction_ms), do: div(growth(report) * reaction_ms, 1_000)

  @doc "Whether memory grows, as far as decisions go."
  @spec grows?(report()) :: boolean()
  def grows?(report), do: fastest(report) >= Limits.growth_bytes_per_s()

  defp urgent?(report) do
    case left_ms(report) do
      nil -> false
      left_ms -> left_ms < Limits.urgent_ms()
    end
  end

  @doc "Whether memory has grown for long enough that it is no single step."
  @spec lasts?(report()) :: boolean()
  def lasts?(report), do: growth(report) >= Limits.growth_bytes_per_s()

  @doc "The time until the limit itself is reached, in ms; `nil` where nothing grows."
  @spec left_ms(report()) :: non_neg_integer() | nil
  def left_ms(report) do
    case growth(report) do
      0 -> nil
      growth -> div(report.headroom_bytes * 1_000, growth)
    end
  end

  # Growth that has lasted. A surge makes the throttle begin; nobody dies for the first 20 ms of one. So does
  # a drift, which is known for longer than it lasts.
  # While the throttle is at work growth comes and goes, and what counts is that of a whole turn, or what
  # went on while all stood still.
  @doc "Growth that has lasted, in bytes/s, as decisions go by it."
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
