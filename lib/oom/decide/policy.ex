defmodule OOM.Policy do
  @moduledoc false
  # The decision at a sample, as pure state: trim first, choose victims for the need, count memory on the way
  # back, and notice kills that do not help. The clock is passed in; nothing here asks or sends anything.

  alias OOM.{EndedGrowth, Limits, Need, Outside, Promises, Reuse, VictimQueue}

  defstruct trim?: false,
            promises: %Promises{},
            # the growth of the last victims; and of the last that were newcomers (OOM.Crowd)
            ended: %EndedGrowth{},
            crowd: %EndedGrowth{},
            reuse: %Reuse{},
            # the largest step of a growing worker, and the steps that may run at once; see OOM.Steps
            step_bytes: 0,
            steps_bytes: 0,
            # the memory of the largest worker of the lowest rank
            largest_bytes: 0,
            # the throttle slows the growers, so that nothing seems to grow
            throttled?: false,
            # nor does the throttle help: the growth is foreign
            foreign?: false,
            outside: %Outside{},
            trimmed_ms: nil,
            # the recent time of a reaction
            reaction_ms: nil,
            # since when the choice waits for figures
            late_ms: nil,
            nobody_since_ms: nil,
            # the time of the last need
            needed_ms: nil,
            # steady workers have paid for the growth of others in this episode
            steady?: false,
            # the headroom left when killing was given up
            exhausted_bytes: nil,
            # the time of the last growth that an experiment has shown
            charged_ms: nil

  @type t :: %__MODULE__{}
  @type decision :: :wait | :trim | {:kill | :trim_and_kill, need_bytes :: pos_integer()}

  @spec new(boolean()) :: t()
  def new(trim?), do: %__MODULE__{trim?: trim?}

  @doc "Decides at a sample with a limit."
  @spec decide(t(), Need.report(), integer()) :: {decision(), t()}
  def decide(policy, report, now_ms) do
    policy = policy |> reconsider(report) |> episode(now_ms)
    need = need_bytes(policy, report, now_ms)

    cond do
      need <= 0 or exhausted?(policy) ->
        {:wait, unneeded(policy)}

      trim_due?(policy, now_ms) ->
        policy = %{policy | trimmed_ms: now_ms, needed_ms: now_ms}
        if hurry?(policy, report), do: {{:trim_and_kill, need}, policy}, else: {:trim, policy}

      trim_settling?(policy, now_ms) and not hurry?(policy, report) ->
        {:wait, policy}

      true ->
        {{:kill, need}, %{policy | needed_ms: now_ms}}
    end
  end

  @doc "Returns the memory that must still be freed, in bytes; 0 or less where none is needed."
  @spec need_bytes(t(), Need.report(), integer()) :: integer()
  def need_bytes(policy, report, now_ms) do
    # Where nothing grows no worker takes a step.
    step = if policy.throttled? or Need.lasts?(report), do: policy.step_bytes, else: 0
    Need.bytes(report, policy.promises, ahead_ms(policy, report), step, now_ms)
  end

  @doc """
  Tells whether the throttle should slow workers that may grow: growth would reach the floor soon, or steps
  that may be taken at the same time would.
  """
  @spec throttle?(t(), Need.report()) :: boolean()
  def throttle?(policy, report) do
    soon? =
      is_integer(report.time_to_exhaustion_ms) and
        report.time_to_exhaustion_ms < Limits.throttle_ms()

    (soon? or crowded?(policy, report)) and Need.grows?(report)
  end

  @doc "Tells whether steps that may be taken at the same time no longer fit."
  @spec crowded?(t(), Need.report()) :: boolean()
  def crowded?(policy, report),
    do: policy.steps_bytes > report.headroom_bytes - report.critical_headroom_bytes

  @doc "Returns the bounds of a choice of victims for the present need."
  @spec limits(t(), pos_integer(), Need.report(), pos_integer(), integer()) ::
          VictimQueue.limits()
  def limits(policy, need_bytes, report, min_bytes, now_ms) do
    grows? = policy.throttled? or Need.lasts?(report)

    %{
      need_bytes: need_bytes,
      steady_bytes: if(steady?(policy, grows?), do: Need.steady_bytes(report, need_bytes)),
      soon_bytes: if(soon?(policy, report), do: Need.soon_bytes(report, need_bytes)),
      recent_bytes: recent_bytes(policy, report, need_bytes),
      ended: EndedGrowth.at(policy.ended, now_ms),
      crowd_bytes: EndedGrowth.at(policy.crowd, now_ms).total_bytes,
      used_bytes: report.working_set_bytes,
      count: Limits.batch(),
      min_bytes: min_bytes,
      grows?: grows?,
      fresh_ms: if(grows?, do: Limits.fresh_ms(), else: Limits.fresh_at_rest_ms()),
      late: if(late_too_long?(policy, now_ms), do: :pass, else: :wait),
      ceiling: Promises.ceiling(policy.promises, now_ms),
      now_ms: now_ms
    }
  end

  # While the throttle holds the growers, nothing may seem to grow. Then growers are a cause where they have
  # grown by a part of the missing memory: the heaps of workers that just work grow, too.
  defp recent_bytes(policy, report, need_bytes) do
    recent = Need.recent_bytes(report)
    held? = policy.throttled? and not Need.lasts?(report)
    if held?, do: max(recent, div(need_bytes, Limits.held_share())), else: recent
  end

  # Not before the effect of the last kills is known; and for the growth of others once an episode.
  defp steady?(policy, grows?),
    do: Promises.settled?(policy.promises) and not (grows? and policy.steady?)

  defp soon?(policy, report) do
    short? =
      report.headroom_bytes * 4 <
        report.critical_headroom_bytes * Limits.soon_floor_quarters()

    short? and Promises.settled?(policy.promises)
  end

  defp late_too_long?(%{late_ms: nil}, _now_ms), do: false
  defp late_too_long?(%{late_ms: since}, now_ms), do: now_ms - since > Limits.late_ms()

  @doc "Records victims that were told to leave."
  @spec killed(t(), [VictimQueue.victim()], VictimQueue.verdict(), Need.report(), integer()) ::
          t()
  def killed(policy, victims, verdict, report, now_ms) do
    policy = ended(policy, victims, verdict, now_ms)

    %{
      policy
      | promises: Promises.told(policy.promises, victims, report, now_ms),
        steady?: policy.steady? or verdict == :steady,
        nobody_since_ms: nil,
        late_ms: nil
    }
  end

  # No worker is measured by the growth of a crowd. And a kill of newcomers is not in vain where others come in
  # their place.
  defp ended(policy, victims, :crowd, now_ms) do
    crowd = EndedGrowth.told(policy.crowd, victims, now_ms)
    %{policy | crowd: crowd, promises: Promises.forgiven(policy.promises)}
  end

  defp ended(policy, victims, _verdict, now_ms),
    do: %{policy | ended: EndedGrowth.told(policy.ended, victims, now_ms)}

  @doc "Records that no victim was chosen. After a while, with no victim on the way, killing is given up."
  @spec nobody(t(), VictimQueue.verdict(), Need.report(), integer()) :: t()
  def nobody(policy, :late, _report, now_ms),
    do: %{policy | late_ms: policy.late_ms || now_ms}

  def nobody(%{nobody_since_ms: nil} = policy, _none, _report, now_ms),
    do: %{policy | nobody_since_ms: now_ms}

  def nobody(policy, _none, report, now_ms) do
    lasted? = now_ms - policy.nobody_since_ms >= Limits.nobody_ms()

    if lasted? and not Promises.under_way?(policy.promises, now_ms),
      do: %{policy | exhausted_bytes: report.headroom_bytes},
      else: policy
  end

  @doc "Records that nothing is needed: no candidate is missing, and a later wait for figures is a new wait."
  @spec unneeded(t()) :: t()
  def unneeded(policy), do: %{policy | late_ms: nil, nobody_since_ms: nil}

  @doc "Records that a victim is gone; `true` when it was the last victim on the way."
  @spec gone(t(), pid(), integer()) :: {boolean(), t()}
  def gone(policy, pid, now_ms) do
    {last?, promises} = Promises.gone(policy.promises, pid, now_ms)
    # Half of the known time, so that a slow end neither rules nor is forgotten at once.
    took = min(promises.left_ms || Limits.reaction_ms(), Limits.longest_reaction_ms())
    reaction = div(reaction_ms(policy) + max(took, Limits.reaction_ms()), 2)
    {last?, %{policy | promises: promises, reaction_ms: reaction}}
  end

  @spec taken_back(t(), pid()) :: t()
  def taken_back(policy, pid),
    do: %{policy | promises: Promises.taken_back(policy.promises, pid)}

  @doc "Records a measure. `swept?`: the memory let go by victims is back, as far as known; see OOM.Sweep."
  @spec measured(t(), OOM.Slack.measure(), non_neg_integer(), boolean()) :: t()
  def measured(policy, measure, slack_bytes, swept? \\ true) do
    reuse = Reuse.measured(policy.reuse, measure)
    # With no limit nothing is decided.
    room = Reuse.bytes(reuse, slack_bytes, Map.get(measure, :headroom_bytes) || slack_bytes)
    promises = policy.promises |> Promises.swept(swept?) |> Promises.measured(measure, room)
    %{policy | reuse: reuse, promises: promises}
  end

  @doc "Sets whether the throttle is at work."
  @spec throttled(t(), boolean()) :: t()
  def throttled(policy, throttled?), do: %{policy | throttled?: throttled?}

  @doc "Sets whether the last throttle has ended because the growth is foreign."
  @spec foreign(t(), boolean()) :: t()
  def foreign(policy, foreign?), do: %{policy | foreign?: foreign?}

  @doc "Records the growth outside of the VM."
  @spec seen(t(), map(), integer()) :: t()
  def seen(policy, report, now_ms),
    do: %{policy | outside: Outside.seen(policy.outside, report, now_ms)}

  @doc "Records the time of the last growth shown by an experiment. New evidence ends the giving up."
  @spec charged(t(), integer() | nil) :: t()
  def charged(%{charged_ms: at_ms} = policy, at_ms), do: policy

  def charged(policy, at_ms),
    do: %{policy | charged_ms: at_ms, exhausted_bytes: nil, nobody_since_ms: nil}

  @doc "Sets the memory of the largest worker of the lowest rank, in bytes."
  @spec largest(t(), non_neg_integer()) :: t()
  def largest(policy, bytes), do: %{policy | largest_bytes: bytes}

  @doc "Sets the largest step, and the steps that may run together, in bytes."
  @spec steps(t(), {non_neg_integer(), non_neg_integer()}) :: t()
  def steps(policy, {largest, together}),
    do: %{policy | step_bytes: largest, steps_bytes: together}

  @doc "Records that the level is below critical: the counts against killing begin anew."
  @spec relieved(t()) :: t()
  def relieved(policy) do
    promises = Promises.forgiven(policy.promises)
    %{policy | promises: promises, late_ms: nil, exhausted_bytes: nil, nobody_since_ms: nil}
  end

  @doc "Tells whether killing was given up: no candidate is left, or kills free next to nothing."
  @spec exhausted?(t()) :: boolean()
  def exhausted?(policy), do: policy.exhausted_bytes != nil

  # Growth that the throttle cannot slow goes on until the victim's memory is back, so a kill looks so far
  # ahead. Growth that the throttle slows does not count: a cache that loads in slices takes nothing
  # meanwhile. Growth outside of the VM is known to be foreign. Growth inside the VM that seems foreign is a
  # guess, so that look ahead is worth half of the floor at most: a longer look ahead killed a cache that
  # loaded unseen.
  defp ahead_ms(policy, report) do
    growth = max(Need.growth(report), 1)
    standing = if policy.foreign?, do: growth, else: report.standing_bytes_per_s || 0
    outside = min(policy.outside.bytes_per_s, growth)
    guessed = max(min(standing, growth) - outside, 0)

    free_ms = div(policy.largest_bytes, Limits.free_busy_bytes_per_ms())
    free_ms = min(free_ms, Limits.longest_free_ms())
    guess_ms = div(div(report.critical_headroom_bytes, Limits.guess_share()) * 1_000, growth)
    longer = free_ms * outside + min(free_ms, guess_ms) * guessed
    reaction_ms(policy) + div(longer, growth)
  end

  defp reaction_ms(policy), do: policy.reaction_ms || Limits.reaction_ms()

  # No time is left for the trim to show.
  defp hurry?(policy, report) do
    case Need.left_ms(report) do
      nil -> false
      left_ms -> left_ms < 2 * (reaction_ms(policy) + Limits.trim_settle_ms())
    end
  end

  defp episode(%{needed_ms: nil} = policy, _now_ms), do: policy

  defp episode(policy, now_ms) do
    if now_ms - policy.needed_ms > Limits.episode_ms(),
      do: %{policy | needed_ms: nil, steady?: false},
      else: policy
  end

  defp reconsider(%{exhausted_bytes: nil} = policy, report) do
    if Promises.futile?(policy.promises),
      do: %{policy | exhausted_bytes: report.headroom_bytes},
      else: policy
  end

  # Giving up is not final: each time the headroom has halved again, one more round may try, with fresher
  # figures. Only a handful of rounds fit in before the end, so this is no loop.
  defp reconsider(%{exhausted_bytes: given_up} = policy, report) do
    if report.headroom_bytes * 2 < given_up do
      promises = Promises.forgiven(policy.promises, Limits.futile_windows() - 1)
      %{policy | exhausted_bytes: nil, nobody_since_ms: nil, promises: promises}
    else
      policy
    end
  end

  defp trim_due?(%{trim?: false}, _now_ms), do: false
  defp trim_due?(%{trimmed_ms: nil}, _now_ms), do: true
  defp trim_due?(%{trimmed_ms: last}, now_ms), do: now_ms - last >= Limits.trim_every_ms()

  defp trim_settling?(%{trimmed_ms: nil}, _now_ms), do: false
  defp trim_settling?(%{trimmed_ms: last}, now_ms), do: now_ms - last < Limits.trim_settle_ms()
end
