defmodule OOM.Reaction do
  @moduledoc false
  # What to do at a critical sample, as pure state: trim first, kill what the deficit asks for,
  # count what is already on its way, and notice when killing does not help. The clock is passed
  # in; nothing here asks or sends anything.
  #
  # The deficit is measured against the `high` watermark: far enough below `critical` that the
  # next sample is not critical again, and no further. From it is taken what is promised: what the
  # victims held, from the moment they were told to leave, until a measure (OOM.Slack) says how
  # much of it is free inside the VM. What of it goes back to the system shows in the working set.
  # And to it is added what will have grown by the time the victims are gone. A promise does not
  # hold for long: a victim in the middle of a copy of hundreds of MB may not leave for a while,
  # and the others grow meanwhile.

  # From a decision until its victims' memory is back.
  @ahead_ms 15
  # A trim has taken effect after this long, with the schedulers busy.
  @trim_settle_ms 20
  @trim_every_ms 100
  # With less time than this left, the kill does not wait for the trim.
  @urgent_ms 150
  # A victim's heap is freed after its DOWN, on a scheduler of its own. A mailbox of hundreds of MB
  # takes hundreds of ms.
  @free_ms 5
  @free_bytes_per_ms 1_048_576
  # What counts as on its way while memory grows fast: who was told to leave in this time, and what
  # goes back to the system at this speed (a heap, or an array).
  @leave_ms 50
  @return_bytes_per_ms 4_194_304
  # At full speed a worker takes tens of MB in one turn of its own; but figures that are newer than
  # a pass takes are not to be had. In 100 ms fresh figures of thousands of workers come in. Where
  # the end is not near, a figure holds for the time in which growth takes a tenth of what is left,
  # and is waited for as long: on a slow machine, or one that gets little of its CPUs, idle workers
  # would die for figures that are late.
  @fresh_ms 100
  @fresh_calm_ms 400
  @fresh_urgent_ms 40
  # What victims that have not left after this long would free is not counted on.
  @stuck_ms 150
  # And they keep the next priority waiting no longer than this. Until then their own memory is
  # most of what can be had, and the death of others does not bring it sooner.
  @waiting_ms 500
  # Kills are worth it for a quarter of what is missing, and for the growth of this time.
  @worth 4
  @worth_ms 10
  # What was measured is measured again within this, or not counted on either.
  @measured_ms 600
  # Whether killing helps is judged over windows this long, because what the victims held is freed
  # when they get their turn; after so many that freed nothing, killing is given up.
  @judge_ms 250
  @futile_windows 4
  # So long without anyone to kill, and there is nobody.
  @nobody_ms 500

  defstruct trim?: false,
            step_bytes: 0,
            # With less time than this left, those in line stand still. A kill takes effect at once
            # in one that stands still; in one that has begun a collection of 100 MB it does not for
            # 100 ms and more.
            soon_ms: 300,
            # since when the choice meets workers whose figures are too old
            late_ms: nil,
            trimmed_ms: nil,
            # pid => {bytes, since_ms}: told to leave, and still there; of one rank
            leaving: %{},
            rank: nil,
            last_kill_ms: nil,
            # [{gone_ms, bytes}]: gone since the last measure
            gone: [],
            # {bytes, working set at that time, until_ms}
            promised: {0, 0, 0},
            # the window being judged: {since_ms, allocated_bytes then, bytes of the victims since}
            window: nil,
            futile: 0,
            nobody_since_ms: nil,
            # the headroom left when killing was given up
            exhausted_bytes: nil

  @type t :: %__MODULE__{}
  @type decision :: :wait | :trim | {:kill | :trim_and_kill, need_bytes :: pos_integer()}

  @spec new(boolean(), non_neg_integer()) :: t()
  def new(trim?, soon_ms \\ 300), do: %__MODULE__{trim?: trim?, soon_ms: soon_ms}

  @doc "At a critical sample."
  @spec decide(t(), map(), integer()) :: {decision(), t()}
  def decide(%__MODULE__{} = reaction, report, now_ms) do
    reaction = reconsider(reaction, report)
    need = need_bytes(reaction, report, now_ms)
    # A step is not made smaller by a trim; and where those in line stand still now, there is no
    # sign of growth after it, and no further sample to act on.
    hurry? = urgent?(report) or crowded?(reaction, report)

    cond do
      need <= 0 or exhausted?(reaction) ->
        {:wait, %{reaction | late_ms: nil}}

      trim_due?(reaction, now_ms) ->
        reaction = %{reaction | trimmed_ms: now_ms}
        if hurry?, do: {{:trim_and_kill, need}, reaction}, else: {:trim, reaction}

      trim_settling?(reaction, now_ms) and not hurry? ->
        {:wait, reaction}

      true ->
        {{:kill, need}, reaction}
    end
  end

  @doc """
  Whether what may be taken in one step, which nothing can interrupt, hardly fits any more
  (OOM.Steps).
  """
  @spec crowded?(t(), map()) :: boolean()
  def crowded?(%{step_bytes: step}, report), do: step * 2 > report.headroom_bytes

  @doc "What may be taken in one step, as of now."
  @spec step(t(), non_neg_integer()) :: t()
  def step(reaction, bytes), do: %{reaction | step_bytes: bytes}

  @doc "What must still be freed."
  @spec need_bytes(t(), map(), integer()) :: integer()
  def need_bytes(reaction, report, now_ms),
    do: missing_bytes(reaction, report) - promised_bytes(reaction, report, now_ms)

  @doc """
  Whether those in line should stand still (OOM.Brake): growth would pass the limit very soon.
  """
  @spec brake?(t(), map()) :: boolean()
  def brake?(_reaction, %{time_to_exhaustion_ms: nil}), do: false

  def brake?(%{soon_ms: soon} = reaction, %{time_to_exhaustion_ms: ms}),
    do: ms < soon and not exhausted?(reaction)

  @doc """
  What to do about workers whose figures are old: at first they are waited for, if there is room. It
  is the looks that are late, not the workers: a VM that gets no CPU for a while, or waits for a disk,
  has old figures of all of them. One that does not answer a look is known to be stale.
  """
  @spec unknown(t(), map(), integer()) :: :take | :wait
  def unknown(%{late_ms: since}, report, now_ms) do
    if desperate?(report) or (since != nil and now_ms - since > fresh_ms(report)),
      do: :take,
      else: :wait
  end

  @doc "Whether the choice met workers whose figures are too old."
  @spec late(t(), boolean(), integer()) :: t()
  def late(reaction, false, _now_ms), do: %{reaction | late_ms: nil}
  def late(reaction, true, now_ms), do: %{reaction | late_ms: reaction.late_ms || now_ms}

  @doc "How old the figure of a small worker may be, to be believed."
  @spec fresh_ms(map()) :: pos_integer()
  def fresh_ms(report), do: if(urgent?(report), do: @fresh_urgent_ms, else: calm_ms(report))

  @doc """
  What to do about workers that read small and work hard: near the end, when memory grows and
  nobody known has it, it is more often them than not.
  """
  @spec busy(map()) :: :take | :spare
  def busy(report), do: if(desperate?(report), do: :take, else: :spare)

  @doc """
  What all that may be killed must hold together, or nobody is. Who dies for a small part of what
  is missing dies for nothing: somebody else has that memory, or it is on its way already. Near the
  end little is worth it, but not what growth takes in the next moment.
  """
  @spec worth_bytes(t(), map()) :: integer()
  def worth_bytes(reaction, report) do
    part = div(min(missing_bytes(reaction, report), max(report.headroom_bytes, 0)), @worth)
    max(part, growth_bytes(report, @worth_ms))
  end

  @doc """
  The highest rank that may be picked: while victims are on their way, theirs. One that takes very
  long (a heap of hundreds of MB is being collected, and cannot be interrupted) keeps the others
  waiting no longer.
  """
  @spec ceiling(t(), integer()) :: 0..1000
  def ceiling(%{last_kill_ms: nil}, _now_ms), do: 1000

  def ceiling(reaction, now_ms) do
    on_the_way? = reaction.leaving != %{} or Enum.any?(reaction.gone, &freeing?(&1, now_ms))

    if on_the_way? and now_ms - reaction.last_kill_ms < @waiting_ms,
      do: reaction.rank,
      else: 1000
  end

  @doc "These were told to leave, at this report."
  @spec killed(t(), [OOM.Plan.victim()], map(), integer()) :: t()
  def killed(reaction, [%{rank: rank} | _] = victims, %{working_set_bytes: working_set}, now_ms) do
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum()
    left = promised_left(reaction.promised, working_set, now_ms)

    %{
      reaction
      | leaving: Map.merge(reaction.leaving, Map.new(victims, &{&1.pid, {&1.bytes, now_ms}})),
        promised: {left + bytes, working_set, now_ms + @stuck_ms},
        rank: rank,
        last_kill_ms: now_ms,
        nobody_since_ms: nil
    }
  end

  @doc "A victim is gone; `true` when it was the last one on its way."
  @spec gone(t(), pid(), integer()) :: {boolean(), t()}
  def gone(reaction, pid, now_ms) do
    case Map.pop(reaction.leaving, pid) do
      {nil, _} ->
        {false, reaction}

      {{bytes, _since}, leaving} ->
        {leaving == %{}, %{reaction | leaving: leaving, gone: [{now_ms, bytes} | reaction.gone]}}
    end
  end

  @doc """
  The VM's memory was measured, with `slack_bytes` of it free inside. That takes the place of what
  was promised by the victims that had gone by then. Where they freed next to nothing, inside the
  VM or out, that is counted: what they held was shared, or the figures were wrong.
  """
  @spec measured(t(), OOM.Slack.measure(), non_neg_integer()) :: t()
  def measured(reaction, measure, slack_bytes) do
    # What has just gone may or may not be in the measure, and still counts as promised.
    {since, before} = Enum.split_with(reaction.gone, &freeing?(&1, measure.started_ms))

    # Nor one that should have left long ago.
    due = measure.started_ms - @stuck_ms

    leaving =
      for {_, {bytes, from}} <- reaction.leaving, from > due, reduce: 0, do: (a -> a + bytes)

    promised = slack_bytes + leaving + sum(since)

    judge(
      %{
        reaction
        | gone: since,
          promised: {promised, measure.working_set_bytes, measure.started_ms + @measured_ms}
      },
      measure,
      sum(before)
    )
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

  @doc "The level is below critical: what was counted against killing begins anew."
  @spec relieved(t()) :: t()
  def relieved(reaction),
    do: %{
      reaction
      | late_ms: nil,
        futile: 0,
        window: nil,
        exhausted_bytes: nil,
        nobody_since_ms: nil
    }

  @doc "Whether killing was given up: nobody is left, or it frees next to nothing."
  @spec exhausted?(t()) :: boolean()
  def exhausted?(reaction), do: reaction.exhausted_bytes != nil

  # The working set has moved since: down by what went back to the system, which is headroom by
  # now, or up by growth, which uses up what is free inside or shows that it cannot be used.
  defp promised_left({_bytes, _then, until}, _working_set, now_ms) when now_ms >= until, do: 0

  defp promised_left({bytes, then, _until}, working_set, _now_ms),
    do: max(bytes - abs(working_set - then), 0)

  defp missing_bytes(reaction, report) do
    coming = growth_bytes(report, @ahead_ms)
    missing = report.high_headroom_bytes - report.headroom_bytes + coming
    max(missing, step_missing_bytes(reaction, report))
  end

  # Until the step fits into half of the headroom, because it grows on until the victim hears of it:
  # 24 MB in 12 ms were enough. Whoever ends takes his own with him, and leaves as much headroom.
  defp step_missing_bytes(%{step_bytes: step}, %{headroom_bytes: headroom}),
    do: div(step * 2 - headroom, 3)

  defp growth_bytes(report, ms), do: div(max(report.growth_bytes_per_s || 0, 0) * ms, 1_000)

  # While memory grows that fast, what the victims gave back may be somebody else's already, and a
  # working set that stands still proves nothing: only what they cannot have given back yet counts.
  defp promised_bytes(reaction, report, now_ms) do
    promised = promised_left(reaction.promised, report.working_set_bytes, now_ms)
    if urgent?(report), do: min(promised, on_the_way(reaction, now_ms)), else: promised
  end

  defp on_the_way(reaction, now_ms) do
    leaving = for {_, {bytes, since}} <- reaction.leaving, now_ms - since < @leave_ms, do: bytes

    returning =
      for {gone_ms, bytes} <- reaction.gone,
          now_ms - gone_ms < @free_ms + div(bytes, @return_bytes_per_ms),
          do: bytes

    Enum.sum(leaving) + Enum.sum(returning)
  end

  defp freeing?({gone_ms, bytes}, now_ms),
    do: now_ms - gone_ms <= @free_ms + div(bytes, @free_bytes_per_ms)

  defp sum(gone), do: gone |> Enum.map(&elem(&1, 1)) |> Enum.sum()

  defp judge(%{window: nil} = reaction, measure, _bytes),
    do: %{reaction | window: {measure.started_ms, measure.allocated_bytes, 0}}

  defp judge(%{window: {since, allocated, bytes}} = reaction, measure, more) do
    bytes = bytes + more

    if measure.started_ms - since < @judge_ms do
      %{reaction | window: {since, allocated, bytes}}
    else
      futile = futile(reaction.futile, bytes, allocated - measure.allocated_bytes)
      %{reaction | futile: futile, window: {measure.started_ms, measure.allocated_bytes, 0}}
    end
  end

  defp futile(count, 0, _freed), do: count
  # Less than a tenth of what the victims are said to have held.
  defp futile(count, bytes, freed) when abs(freed) * 10 < bytes, do: count + 1
  # It frees; or others grow meanwhile, and whether it frees cannot be told. Then it goes on.
  defp futile(_count, _bytes, _freed), do: 0

  defp reconsider(%{exhausted_bytes: nil, futile: futile} = reaction, report)
       when futile >= @futile_windows,
       do: %{reaction | exhausted_bytes: report.headroom_bytes}

  # Having given up is not for ever: each time the headroom has halved again, one more round may
  # try, with fresher figures. That is a handful of rounds before the end, and no loop.
  defp reconsider(%{exhausted_bytes: given_up} = reaction, report) when is_integer(given_up) do
    if report.headroom_bytes * 2 < given_up,
      do: %{reaction | exhausted_bytes: nil, futile: @futile_windows - 1, nobody_since_ms: nil},
      else: reaction
  end

  defp reconsider(reaction, _report), do: reaction

  defp trim_due?(%{trim?: false}, _now_ms), do: false
  defp trim_due?(%{trimmed_ms: nil}, _now_ms), do: true
  defp trim_due?(%{trimmed_ms: last}, now_ms), do: now_ms - last >= @trim_every_ms

  defp trim_settling?(%{trimmed_ms: nil}, _now_ms), do: false
  defp trim_settling?(%{trimmed_ms: last}, now_ms), do: now_ms - last < @trim_settle_ms

  defp calm_ms(%{time_to_exhaustion_ms: nil}), do: @fresh_calm_ms

  defp calm_ms(%{time_to_exhaustion_ms: ms}),
    do: ms |> div(10) |> max(@fresh_ms) |> min(@fresh_calm_ms)

  # Those in line stand still by now or have nothing to do with it, and half of the room is gone.
  defp desperate?(report),
    do: urgent?(report) and report.headroom_bytes < report.high_headroom_bytes * 0.5

  defp urgent?(%{time_to_exhaustion_ms: nil}), do: false
  defp urgent?(%{time_to_exhaustion_ms: ms}), do: ms < @urgent_ms
end
