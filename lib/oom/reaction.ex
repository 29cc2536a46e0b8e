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
            exhausted_bytes: nil,
            # free inside the VM: promised by victims that are gone, or measured since:
            # %{bytes, working_set_bytes and now_ms at that time}
            credit: nil,
            # rounds whose effect is not measured yet: %{bytes, growth_bytes_per_s, started_ms}
            ended: nil,
            # what the VM had allocated when last measured
            allocated: nil

  @type t :: %__MODULE__{}
  @type decision :: :trim | {:trim_and_kill | :kill, pos_integer()} | :wait

  @spec new(boolean()) :: t()
  def new(trim?), do: %__MODULE__{trim?: trim?}

  @doc "At a critical sample. Ends the round that has settled, if there is one."
  @spec decide(t(), map(), integer()) :: {decision(), t()}
  def decide(%__MODULE__{} = reaction, report, now_ms) do
    settling = Enum.filter(reaction.settling, fn {until, _} -> until > now_ms end)

    reaction =
      %{reaction | settling: settling}
      |> end_round(report, now_ms)
      |> give_up(report)
      |> reconsider(report)

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

  @doc """
  What must still be freed: the way back to the `high` watermark, less what is on its way, and
  less what was freed inside the VM, which it will use before it grows.
  """
  @spec need_bytes(t(), map()) :: integer()
  def need_bytes(reaction, report) do
    settling = reaction.settling |> Enum.map(&elem(&1, 1)) |> Enum.sum()

    report.high_headroom_bytes - report.headroom_bytes - reaction.leaving_bytes - settling -
      credit_left(reaction.credit, report)
  end

  # Growth says that the credit is being used up, or that it cannot be used.
  defp credit_left(nil, _report), do: 0

  defp credit_left(%{bytes: bytes, working_set_bytes: then}, report),
    do: max(bytes - max(report.working_set_bytes - then, 0), 0)

  @doc """
  The VM's memory was measured (`OOM.Slack`), with `slack_bytes` of it free inside. That takes the
  place of what the victims promised. Rounds that freed next to nothing, inside the VM or out, are
  counted: what their victims held was shared, or the figures were wrong.
  """
  @spec measured(t(), OOM.Slack.measure(), non_neg_integer()) :: t()
  def measured(%{round: nil} = reaction, measure, slack_bytes) do
    if reaction.credit == nil or measure.started_ms > reaction.credit.now_ms do
      credit = %{
        bytes: slack_bytes,
        working_set_bytes: measure.working_set_bytes,
        now_ms: measure.started_ms
      }

      judge(%{reaction | credit: credit, allocated: measure.allocated_bytes}, measure)
    else
      reaction
    end
  end

  # While a round is on, some of it is freed and some is not: no time to measure.
  def measured(reaction, _measure, _slack_bytes), do: reaction

  defp judge(%{ended: nil} = reaction, _measure), do: reaction

  defp judge(%{ended: ended} = reaction, measure) do
    grown = div(ended.growth_bytes_per_s * (measure.started_ms - ended.started_ms), 1_000)
    freed = ended.allocated_bytes + grown - measure.allocated_bytes
    futile = if freed * 10 < ended.bytes, do: reaction.futile + 1, else: 0
    %{reaction | ended: nil, futile: futile}
  end

  @doc "These were told to leave."
  @spec killed(t(), [OOM.Plan.victim()], map(), integer()) :: t()
  def killed(reaction, victims, report, now_ms) do
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum()

    round =
      reaction.round ||
        %{
          # Unknown as long as nothing was measured; then the round is not judged.
          allocated_bytes: reaction.allocated,
          growth_bytes_per_s: max(report.growth_bytes_per_s || 0, 0),
          rss_bytes: report.rss_bytes || 0,
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
    do: %{reaction | futile: 0, exhausted_bytes: nil, nobody_since_ms: nil}

  @doc "Whether killing was given up: nobody is left, or the last rounds freed next to nothing."
  @spec exhausted?(t()) :: boolean()
  def exhausted?(reaction), do: reaction.exhausted_bytes != nil

  # All victims are gone and what they held is freed: some of it went back to the system, and
  # resident memory fell (against where it would be had it grown on as before). The rest is free
  # inside the VM.
  defp end_round(%{round: %{} = round, leaving: leaving, settling: []} = reaction, report, now_ms)
       when leaving == %{} do
    grown = div(round.growth_bytes_per_s * (now_ms - round.started_ms), 1_000)
    given_back = max(round.rss_bytes + grown - (report.rss_bytes || 0), 0)

    credit = %{
      bytes: max(round.bytes - given_back, 0) + credit_left(reaction.credit, report),
      working_set_bytes: report.working_set_bytes,
      now_ms: now_ms
    }

    %{reaction | round: nil, credit: credit, ended: ended(reaction.ended, round)}
  end

  defp end_round(reaction, _report, _now_ms), do: reaction

  defp ended(nil, %{allocated_bytes: nil}), do: nil
  defp ended(nil, round), do: round
  defp ended(earlier, round), do: %{earlier | bytes: earlier.bytes + round.bytes}

  defp give_up(%{exhausted_bytes: nil, futile: futile} = reaction, report)
       when futile >= @futile_rounds,
       do: %{reaction | exhausted_bytes: report.headroom_bytes}

  defp give_up(reaction, _report), do: reaction

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
