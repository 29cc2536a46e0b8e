defmodule OOM.Reaction do
  @moduledoc false
  # What to do at a critical sample, as pure state: trim first, kill what the deficit asks for,
  # count what is already on its way, and notice when killing does not help. The clock is passed
  # in; nothing here asks or sends anything.
  #
  # The deficit is measured against the `high` watermark: far enough below `critical` that the
  # next sample is not critical again, and no further.

  # A trim has taken effect after this long, with the schedulers busy.
  @trim_settle_ms 20
  @trim_every_ms 100
  # With less time than this left, the kill does not wait for the trim.
  @urgent_ms 60
  # A victim's heap and binaries are freed after its DOWN, on its own scheduler.
  @settle_ms 30
  # So many rounds that freed next to nothing, one after the other, and killing is given up.
  @futile_rounds 3
  # So long without anyone to kill, and there is nobody.
  @nobody_ms 500

  defstruct trim?: false,
            trimmed_ms: nil,
            # pid => bytes, told to leave
            leaving: %{},
            leaving_bytes: 0,
            # [{until_ms, bytes}], gone but maybe not yet freed
            settling: [],
            # the round under way, see `killed/4`
            round: nil,
            futile: 0,
            nobody_since_ms: nil,
            # the headroom left when killing was given up
            exhausted_bytes: nil

  @type t :: %__MODULE__{}
  @type decision :: :trim | {:trim_and_kill | :kill, pos_integer()} | :wait

  @spec new(boolean()) :: t()
  def new(trim?), do: %__MODULE__{trim?: trim?}

  @doc "At a critical sample. Ends the round that has settled, if there is one."
  @spec decide(t(), map(), integer()) :: {decision(), t()}
  def decide(%__MODULE__{} = reaction, report, now_ms) do
    settling = Enum.filter(reaction.settling, fn {until, _} -> until > now_ms end)
    reaction = %{reaction | settling: settling} |> end_round(report, now_ms) |> reconsider(report)
    need = need_bytes(reaction, report)

    cond do
      need <= 0 or exhausted?(reaction) ->
        {:wait, reaction}

      trim_due?(reaction, now_ms) ->
        {:trim, trimmed(reaction, now_ms)} |> unless_urgent(need, report)

      trim_settling?(reaction, now_ms) and not urgent?(report) ->
        {:wait, reaction}

      true ->
        {{:kill, need}, reaction}
    end
  end

  @doc "What must still be freed, beyond what is on its way."
  @spec need_bytes(t(), map()) :: integer()
  def need_bytes(reaction, report) do
    settling = reaction.settling |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    report.high_headroom_bytes - report.headroom_bytes - reaction.leaving_bytes - settling
  end

  @doc "These were told to leave."
  @spec killed(t(), [OOM.Plan.victim()], map(), integer()) :: t()
  def killed(reaction, victims, report, now_ms) do
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum()

    round =
      reaction.round ||
        %{
          rss_bytes: report.rss_bytes,
          growth_bytes_per_s: max(report.growth_bytes_per_s || 0, 0),
          started_ms: now_ms,
          bytes: 0
        }

    %{
      reaction
      | leaving: Map.merge(reaction.leaving, Map.new(victims, &{&1.pid, &1.bytes})),
        leaving_bytes: reaction.leaving_bytes + bytes,
        round: %{round | bytes: round.bytes + bytes},
        nobody_since_ms: nil
    }
  end

  @doc "A victim is gone; `true` when it was the last one on its way."
  @spec gone(t(), pid(), integer()) :: {boolean(), t()}
  def gone(reaction, pid, now_ms) do
    case Map.pop(reaction.leaving, pid) do
      {nil, _} ->
        {false, reaction}

      {bytes, leaving} ->
        {leaving == %{},
         %{
           reaction
           | leaving: leaving,
             leaving_bytes: reaction.leaving_bytes - bytes,
             settling: [{now_ms + @settle_ms, bytes} | reaction.settling],
             # what it held goes into the schedulers' caches: trim again
             trimmed_ms: if(leaving == %{}, do: nil, else: reaction.trimmed_ms)
         }}
    end
  end

  @doc "Nobody was found to kill; when that has lasted, killing is given up."
  @spec nobody(t(), map(), integer()) :: t()
  def nobody(%{nobody_since_ms: nil} = reaction, _report, now_ms),
    do: %{reaction | nobody_since_ms: now_ms}

  def nobody(reaction, report, now_ms) do
    if now_ms - reaction.nobody_since_ms >= @nobody_ms and reaction.leaving == %{},
      do: %{reaction | exhausted_bytes: report.headroom_bytes},
      else: reaction
  end

  @doc "The level is below critical: all counts begin anew."
  @spec relieved(t()) :: t()
  def relieved(reaction),
    do: %{reaction | futile: 0, exhausted_bytes: nil, nobody_since_ms: nil, round: nil}

  @doc "Whether killing was given up: nobody is left, or the last rounds freed next to nothing."
  @spec exhausted?(t()) :: boolean()
  def exhausted?(reaction), do: reaction.exhausted_bytes != nil

  # What the round freed is what our own resident memory fell by, against where it would be had
  # it grown on as before: a neighbour in the same cgroup neither helps nor hinders this figure.
  # Less than a tenth of what the victims held is nothing.
  defp end_round(
         %{round: %{rss_bytes: rss} = round, leaving: leaving, settling: []} = reaction,
         report,
         now_ms
       )
       when leaving == %{} and is_integer(rss) do
    grown = div(round.growth_bytes_per_s * (now_ms - round.started_ms), 1_000)
    freed = rss + grown - (report.rss_bytes || rss)
    futile = if freed * 10 < round.bytes, do: reaction.futile + 1, else: 0
    given_up = if futile >= @futile_rounds, do: report.headroom_bytes

    %{reaction | round: nil, futile: futile, exhausted_bytes: given_up}
  end

  defp end_round(reaction, _report, _now_ms), do: reaction

  # Having given up is not for ever: each time the headroom has halved again, one more round may
  # try, with fresher figures. That is a handful of rounds before the end, and no loop.
  defp reconsider(%{exhausted_bytes: given_up} = reaction, report)
       when is_integer(given_up) do
    if report.headroom_bytes * 2 < given_up,
      do: %{reaction | exhausted_bytes: nil, futile: @futile_rounds - 1, nobody_since_ms: nil},
      else: reaction
  end

  defp reconsider(reaction, _report), do: reaction

  defp trim_due?(%{trim?: false}, _now_ms), do: false
  defp trim_due?(%{trimmed_ms: nil}, _now_ms), do: true
  defp trim_due?(%{trimmed_ms: last}, now_ms), do: now_ms - last >= @trim_every_ms

  defp trim_settling?(%{trimmed_ms: nil}, _now_ms), do: false
  defp trim_settling?(%{trimmed_ms: last}, now_ms), do: now_ms - last < @trim_settle_ms

  defp trimmed(reaction, now_ms), do: %{reaction | trimmed_ms: now_ms}

  defp unless_urgent({:trim, reaction}, need, report) do
    if urgent?(report), do: {{:trim_and_kill, need}, reaction}, else: {:trim, reaction}
  end

  defp urgent?(%{time_to_exhaustion_ms: nil}), do: false
  defp urgent?(%{time_to_exhaustion_ms: ms}), do: ms < @urgent_ms
end
