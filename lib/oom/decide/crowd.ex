defmodule OOM.Crowd do
  @moduledoc false
  # Newcomers as a cause of growth: pure. Each of a thousand connections is too small to be a grower, and has
  # stopped growing; memory grows with their number. Where newcomers have taken a part of the remembered growth,
  # and still come, the newest go: as many as the need asks for, and as many as come until the next walk. Work let
  # in earlier goes on.

  alias OOM.{Evidence, Limits}

  @typedoc "A newcomer, as a victim. No figure is known while its state is `:new`."
  @type newcomer :: {appeared_ms :: integer(), OOM.VictimQueue.victim()}

  @doc """
  Returns the victims among the newest workers of a rank, given the newest first; `nil` where they are no cause.

    * `:crowd_bytes` - the memory of newcomers ended within the time in which growth is remembered
    * `:total_bytes` - the growth shown in the figures of all workers
    * `:recent_bytes` - the growth of memory in that time
    * `:full?` - more newcomers may have come than these
  """
  @spec choose([newcomer()], %{
          need_bytes: integer(),
          min_bytes: pos_integer(),
          crowd_bytes: non_neg_integer(),
          total_bytes: non_neg_integer(),
          recent_bytes: pos_integer(),
          full?: boolean(),
          now_ms: integer()
        }) :: [OOM.VictimQueue.victim()] | nil
  def choose(newcomers, bounds) do
    with mean when is_integer(mean) <- mean_bytes(newcomers),
         since_ms = bounds.now_ms - Limits.newcomer_ms(),
         newcomers =
           for({at_ms, victim} <- newcomers, do: {at_ms, sized(victim, mean, at_ms >= since_ms)}),
         grown = remembered_bytes(newcomers, since_ms, bounds) + bounds.crowd_bytes,
         true <- Evidence.cause?(grown, bounds.total_bytes, bounds.recent_bytes),
         [_ | _] = victims <-
           newcomers
           |> Enum.filter(fn {_, victim} -> victim.bytes >= bounds.min_bytes end)
           |> take(bounds.need_bytes, coming_bytes(grown)) do
      victims
    else
      _ -> nil
    end
  end

  # Newcomers are alike, so a newcomer without a look counts as the others.
  defp mean_bytes(newcomers) do
    case for {_, %{state: state, bytes: bytes}} when state != :new <- newcomers, do: bytes do
      [] -> nil
      known -> div(Enum.sum(known), length(known))
    end
  end

  # The memory of a worker that came earlier is no growth of this time.
  defp sized(%{state: state, bytes: bytes} = victim, mean, lately?) do
    bytes = if state == :new, do: mean, else: bytes
    %{victim | bytes: bytes, grown_bytes: if(lately?, do: bytes, else: 0)}
  end

  # The memory taken by newcomers in the time in which growth is remembered, at the rate of the later half. Where
  # more have come in that half than were looked at, the rate of those looked at counts.
  defp remembered_bytes(newcomers, since_ms, %{full?: full?, now_ms: now_ms}) do
    grown = for {_, victim} <- newcomers, reduce: 0, do: (sum -> sum + victim.grown_bytes)
    {oldest_ms, _victim} = List.last(newcomers)
    from_ms = if full?, do: max(oldest_ms, since_ms), else: since_ms
    div(grown * Limits.grown_ms(), max(now_ms - from_ms, 1))
  end

  # The memory taken by newcomers until the next walk, at the same rate.
  defp coming_bytes(grown), do: div(grown * Limits.next_walk_ms(), Limits.grown_ms())

  # Earlier workers go for the need alone.
  defp take(newcomers, need, coming) do
    {taken, _left} =
      Enum.reduce_while(newcomers, {[], need}, fn {_, victim}, {taken, left} ->
        least = if victim.grown_bytes > 0, do: -coming, else: 0

        if left > least,
          do: {:cont, {[victim | taken], left - victim.bytes}},
          else: {:halt, {taken, left}}
      end)

    Enum.reverse(taken)
  end
end
