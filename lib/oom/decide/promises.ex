defmodule OOM.Promises do
  @moduledoc false
  # Memory on the way back, as pure state; the clock is passed in. A victim's bytes are promised from the
  # order to leave. A measure of the VM (OOM.Slack) replaces the promises of all victims that were gone by
  # then: it tells how much of their memory is free inside the VM. Memory that went back to the system shows
  # in the working set.
  #
  # A promise does not hold for long: a victim in the middle of a copy of hundreds of MB may not leave for a
  # while, and other workers grow meanwhile. Kills that freed next to nothing are counted.

  alias OOM.Limits

  defstruct leaving: %{},
            rank: nil,
            last_kill_ms: nil,
            # [{gone_ms, bytes}]: victims gone since the last measure
            gone: [],
            # memory let go earlier is back, and waits for no scheduler (OOM.Sweep)
            swept?: true,
            # {bytes, working set at that time, until_ms}
            promised: {0, 0, 0},
            # the time the last victim took to leave
            left_ms: nil,
            # the window to judge: {since_ms, allocated_bytes then, bytes of the victims since}
            window: nil,
            futile: 0

  @type t :: %__MODULE__{leaving: %{pid() => {bytes :: non_neg_integer(), since_ms :: integer()}}}

  @doc "Adds victims that were told to leave at this report."
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

  @doc "Returns the memory promised for this victim, in bytes; 0 where it is no victim, or gone."
  @spec leaving_bytes(t(), pid()) :: non_neg_integer()
  def leaving_bytes(%{leaving: leaving}, pid) do
    case leaving do
      %{^pid => {bytes, _since}} -> bytes
      _ -> 0
    end
  end

  @doc "Records that a victim is gone; `true` when it was the last victim on the way."
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

  @doc "Takes back the promise of a worker that is spared after all."
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

  @doc "Records whether all memory let go is back, as far as known."
  @spec swept(t(), boolean()) :: t()
  def swept(promises, swept?), do: %{promises | swept?: swept?}

  @doc "Records a measure of the VM, with `slack_bytes` free inside."
  @spec measured(t(), OOM.Slack.measure(), non_neg_integer()) :: t()
  def measured(promises, measure, slack_bytes) do
    # The measure may have missed victims that have just gone, so these still count as promised.
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
  Returns the promised memory to count on, in bytes. While growth leaves little time, other workers may
  already have the memory of the victims, and a working set that stands still proves nothing. Then only memory
  counts that the victims cannot have given back yet.
  """
  @spec bytes(t(), map(), boolean(), integer()) :: non_neg_integer()
  def bytes(promises, %{working_set_bytes: working_set}, urgent?, now_ms) do
    promised = left(promises.promised, working_set, now_ms)
    if urgent?, do: min(promised, on_the_way(promises, now_ms)), else: promised
  end

  @doc "Returns how long to hold up all other processes for victims to leave, in ms."
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

  @doc "Tells whether all victims are gone, and a measure has shown the fate of their memory."
  @spec settled?(t()) :: boolean()
  def settled?(promises),
    do: promises.swept? and promises.leaving == %{} and promises.gone == []

  @doc "Tells whether victims are still there, or their memory is just being freed."
  @spec under_way?(t(), integer()) :: boolean()
  def under_way?(promises, now_ms),
    do: promises.leaving != %{} or Enum.any?(promises.gone, &freeing?(&1, now_ms))

  @doc """
  Returns the highest rank that may be chosen: the rank of the last kills until their effect is measured. A
  slow victim keeps the other ranks waiting no longer than `OOM.Limits.waiting_ms/0`.
  """
  @spec ceiling(t(), integer()) :: 0..1000
  def ceiling(%{last_kill_ms: nil}, _now_ms), do: 1000

  def ceiling(promises, now_ms) do
    recent? = now_ms - promises.last_kill_ms < Limits.waiting_ms()
    if recent? and not settled?(promises), do: promises.rank, else: 1000
  end

  @doc "Tells whether kills have freed next to nothing, again and again."
  @spec futile?(t()) :: boolean()
  def futile?(promises), do: promises.futile >= Limits.futile_windows()

  @doc "Sets the count of futile windows, and begins a new window."
  @spec forgiven(t(), non_neg_integer()) :: t()
  def forgiven(promises, futile \\ 0), do: %{promises | futile: futile, window: nil}

  # The working set has moved since: down by memory that went back to the system, which is headroom by now, or
  # up by growth, which uses memory free inside the VM or shows that growth cannot use it.
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
  # Kills free memory; or other workers grow meanwhile and hide the effect. Killing goes on.
  defp futile(_count, _bytes, _freed), do: 0
end
