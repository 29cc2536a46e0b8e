defmodule OOM.Promises do
  @moduledoc false
  # What is on its way back, as pure state; the clock is passed in. A victim's bytes are promised from
  # the moment it is told to leave. A measure of the VM (OOM.Slack) takes the place of what the victims
  # that had gone by then had promised: how much of it is free inside the VM. What went back to the
  # system shows in the working set.
  #
  # A promise does not hold for long: a victim in the middle of a copy of hundreds of MB may not leave
  # for a while, and others grow meanwhile. Where kills freed next to nothing, that is counted.

  alias OOM.Limits

  defstruct leaving: %{},
            rank: nil,
            last_kill_ms: nil,
            # [{gone_ms, bytes}]: gone since the last measure
            gone: [],
            # what was let go before waits for its scheduler (OOM.Sweep)
            swept?: true,
            # {bytes, working set at that time, until_ms}
            promised: {0, 0, 0},
            # how long the last victims took to leave
            left_ms: nil,
            # the window being judged: {since_ms, allocated_bytes then, bytes of the victims since}
            window: nil,
            futile: 0

  @type t :: %__MODULE__{leaving: %{pid() => {bytes :: non_neg_integer(), since_ms :: integer()}}}

  @doc "These were told to leave, at this report."
  @spec told(t(), [OOM.VictimQueue.victim()], map(), integer()) :: t()
  def told(promises, [%{rank: rank} | _] = victims, %{working_set_bytes: working_set}, now_ms) do
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum()
    left = left(promises.promised, working_set, now_ms)

    %{
      promises
      | leaving: Map.merge(promises.leaving, Map.new(victims, &{&1.pid, {&1.bytes, now_ms}})),
        promised: {left + bytes, working_set, now_ms + Limits.stuck_ms()},
        rank: rank,
        last_kill_ms: now_ms
    }
  end

  @doc "What this victim was said to hold when it was told to leave; 0 where it is none, or is gone."
  @spec leaving_bytes(t(), pid()) :: non_neg_integer()
  def leaving_bytes(%{leaving: leaving}, pid) do
    case leaving do
      %{^pid => {bytes, _since}} -> bytes
      _ -> 0
    end
  end

  @doc "A victim is gone; `true` when it was the last one on its way."
  @spec gone(t(), pid(), integer()) :: {boolean(), t()}
  def gone(promises, pid, now_ms) do
    case Map.pop(promises.leaving, pid) do
      {nil, _} ->
        {false, promises}

      {{bytes, since}, leaving} ->
        gone = [{now_ms, bytes} | promises.gone]
        {leaving == %{}, %{promises | leaving: leaving, gone: gone, left_ms: now_ms - since}}
    end
  end

  @doc "This one was told to leave, and is not killed after all."
  @spec taken_back(t(), pid()) :: t()
  def taken_back(promises, pid) do
    case Map.pop(promises.leaving, pid) do
      {nil, _} ->
        promises

      {{bytes, _since}, leaving} ->
        {promised, then, until} = promises.promised
        %{promises | leaving: leaving, promised: {max(promised - bytes, 0), then, until}}
    end
  end

  @doc "Whether what was let go is back, as far as that is known; as of now."
  @spec swept(t(), boolean()) :: t()
  def swept(promises, swept?), do: %{promises | swept?: swept?}

  @doc "The VM's memory was measured, with `slack_bytes` of it free inside."
  @spec measured(t(), OOM.Slack.measure(), non_neg_integer()) :: t()
  def measured(promises, measure, slack_bytes) do
    # What has just gone may or may not be in the measure, and still counts as promised.
    {since, before} = Enum.split_with(promises.gone, &freeing?(&1, measure.started_ms))
    # A victim that should have left long ago promises nothing.
    due = measure.started_ms - Limits.stuck_ms()

    leaving =
      for {_, {bytes, from}} <- promises.leaving, from > due, reduce: 0, do: (a -> a + bytes)

    promised = slack_bytes + leaving + sum(since)
    until = measure.started_ms + Limits.measured_ms()

    judge(
      %{promises | gone: since, promised: {promised, measure.working_set_bytes, until}},
      measure,
      sum(before)
    )
  end

  @doc """
  What can be counted on. While growth leaves little time, what the victims gave back may be somebody
  else's already, and a working set that stands still proves nothing: only what they cannot have given
  back yet counts.
  """
  @spec bytes(t(), map(), boolean(), integer()) :: non_neg_integer()
  def bytes(promises, %{working_set_bytes: working_set}, urgent?, now_ms) do
    promised = left(promises.promised, working_set, now_ms)
    if urgent?, do: min(promised, on_the_way(promises, now_ms)), else: promised
  end

  @doc "How long it makes sense to hold up all others for victims to leave, in ms."
  @spec leave_ms(t(), integer()) :: non_neg_integer()
  def leave_ms(promises, now_ms) do
    for {_, {_bytes, since}} <- promises.leaving, reduce: 0 do
      ms -> max(ms, since + Limits.stuck_ms() - now_ms)
    end
  end

  defp on_the_way(promises, now_ms) do
    leaving =
      for {_, {bytes, since}} <- promises.leaving, now_ms - since < Limits.leave_ms(), do: bytes

    returning =
      for {gone_ms, bytes} <- promises.gone,
          now_ms - gone_ms < Limits.free_ms() + div(bytes, Limits.return_bytes_per_ms()),
          do: bytes

    Enum.sum(leaving) + Enum.sum(returning)
  end

  @doc "All victims are gone, and a measure has shown what became of their memory."
  @spec settled?(t()) :: boolean()
  def settled?(promises),
    do: promises.swept? and promises.leaving == %{} and promises.gone == []

  @doc "Victims are still there, or their memory is just being freed."
  @spec under_way?(t(), integer()) :: boolean()
  def under_way?(promises, now_ms),
    do: promises.leaving != %{} or Enum.any?(promises.gone, &freeing?(&1, now_ms))

  @doc """
  The highest rank that may be chosen: while it is not known what the last kills gave back, theirs. A
  victim that takes very long keeps the others waiting no longer than `OOM.Limits.waiting_ms/0`.
  """
  @spec ceiling(t(), integer()) :: 0..1000
  def ceiling(%{last_kill_ms: nil}, _now_ms), do: 1000

  def ceiling(promises, now_ms) do
    recent? = now_ms - promises.last_kill_ms < Limits.waiting_ms()
    if recent? and not settled?(promises), do: promises.rank, else: 1000
  end

  @doc "Kills have freed next to nothing, again and again."
  @spec futile?(t()) :: boolean()
  def futile?(promises), do: promises.futile >= Limits.futile_windows()

  @doc "What was counted against kills begins anew, but for so many windows."
  @spec forgiven(t(), non_neg_integer()) :: t()
  def forgiven(promises, futile \\ 0), do: %{promises | futile: futile, window: nil}

  # The working set has moved since: down by what went back to the system, which is headroom by now,
  # or up by growth, which uses up what is free inside or shows that it cannot be used.
  defp left({_bytes, _then, until}, _working_set, now_ms) when now_ms >= until, do: 0

  defp left({bytes, then, _until}, working_set, _now_ms),
    do: max(bytes - abs(working_set - then), 0)

  defp freeing?({gone_ms, bytes}, now_ms),
    do: now_ms - gone_ms <= Limits.free_ms() + div(bytes, Limits.free_bytes_per_ms())

  defp sum(gone), do: gone |> Enum.map(&elem(&1, 1)) |> Enum.sum()

  defp judge(%{window: nil} = promises, measure, _bytes),
    do: %{promises | window: {measure.started_ms, measure.allocated_bytes, 0}}

  defp judge(%{window: {since, allocated, bytes}} = promises, measure, more) do
    bytes = bytes + more

    if measure.started_ms - since < Limits.judge_ms() do
      %{promises | window: {since, allocated, bytes}}
    else
      futile = futile(promises.futile, bytes, allocated - measure.allocated_bytes)
      %{promises | futile: futile, window: {measure.started_ms, measure.allocated_bytes, 0}}
    end
  end

  defp futile(count, 0, _freed), do: count
  defp futile(count, bytes, freed) when abs(freed) * 10 < bytes, do: count + 1
  # It frees; or others grow meanwhile, and whether it frees cannot be told. Then it goes on.
  defp futile(_count, _bytes, _freed), do: 0
end
