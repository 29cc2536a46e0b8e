defmodule OOM.Holds.Alarm do
  @moduledoc false
  # Reports problems of a hold: in the log, and as an alarm of SASL where SASL runs.
  #
  #   * `:oom_given_up` - killed too often; the child stays down
  #   * `:oom_no_room` - no room for the child's last size; the child is tried alone, and the alarm stays
  #     until the child has lived for stable_ms
  #   * `:oom_start_fails` - the start has failed several times in a row; retries go on, and the alarm
  #     ends with the first start that does not fail

  import OOM.Bytes, only: [mib: 1]

  require OOM.Log, as: Log

  alias OOM.{Hold, Snapshot}

  @doc "Reports a child killed too often."
  @spec raise_for(Hold.t()) :: :ok
  def raise_for(%Hold{} = hold), do: raise_for(:oom_given_up, hold, given_up(hold))

  @doc "Reports a child that does not fit beside the running workers, or never will."
  @spec no_room(Hold.t(), Snapshot.t()) :: :ok
  def no_room(%Hold{} = hold, snapshot),
    do: raise_for(:oom_no_room, hold, no_room_message(hold, snapshot))

  @doc "Logs the reason of a failed start, unless logged last; raises the alarm when starts keep failing."
  @spec start_failed(Hold.t() | nil, Hold.t(), term()) :: :ok
  def start_failed(before, %Hold{} = hold, reason) do
    cond do
      Hold.fails?(hold) and not (before != nil and Hold.fails?(before)) ->
        raise_for(:oom_start_fails, hold, failed(hold, reason))

      before == nil or before.said != hold.said ->
        Log.warning(fn -> failed(hold, reason) end)

      true ->
        :ok
    end
  end

  @doc "Logs that another process has taken the child's place."
  @spec already_started(Hold.t(), term(), pid()) :: :ok
  def already_started(%Hold{} = hold, id, pid) do
    Log.info(fn ->
      "OOM: #{short(id)} under #{short(hold.supervisor)} is no longer held: " <>
        "#{short(pid)} was started in its place"
    end)
  end

  @doc "Clears all alarms of a hold."
  @spec clear(Hold.t() | nil) :: :ok
  def clear(nil), do: :ok
  def clear(%Hold{} = hold), do: Enum.each(of(hold), &tell(:clear_alarm, {&1, Hold.key(hold)}))

  @doc "Clears the alarms that are over, now that `before` has become `hold`."
  @spec clear(Hold.t() | nil, Hold.t() | nil) :: :ok
  def clear(nil, _hold), do: :ok
  def clear(before, nil), do: clear(before)

  def clear(before, hold),
    do: Enum.each(of(before) -- of(hold), &tell(:clear_alarm, {&1, Hold.key(before)}))

  @doc "Moves the alarms of `before` to the child's new id, without a log message."
  @spec renamed(Hold.t(), Hold.t()) :: :ok
  def renamed(before, hold) do
    clear(before)
    if :oom_no_room in of(hold), do: set(:oom_no_room, hold, "OOM: no room")
    :ok
  end

  defp of(hold) do
    for {kind, true} <- [
          oom_given_up: hold.state == :given_up,
          oom_no_room: hold.no_room?,
          oom_start_fails: Hold.fails?(hold)
        ],
        do: kind
  end

  defp raise_for(kind, hold, message) do
    Log.error(fn -> message end)
    set(kind, hold, message)
  end

  defp set(kind, hold, message), do: tell(:set_alarm, {{kind, Hold.key(hold)}, message})

  # Both functions send a message to the handler, without waiting.
  defp tell(function, argument) do
    if Process.whereis(:alarm_handler), do: apply(:alarm_handler, function, [argument])
    :ok
  end

  defp given_up(hold) do
    "OOM: #{named(hold)} is given up: it was killed " <>
      "#{hold.kills} times for its memory without living for stable_ms in between, and last held " <>
      "#{mib(hold.bytes)}" <>
      with_it(hold) <>
      ". It stays down until OOM.release({#{short(hold.supervisor)}, #{short(hold.id)}}); " <>
      "OOM.held() lists it"
  end

  defp no_room_message(hold, snapshot) do
    "OOM: there is no room for #{named(hold)}: it last held #{mib(hold.bytes)}, and " <>
      "#{mib(snapshot.headroom_bytes || 0)} of #{mib(snapshot.limit_bytes || 0)} are free" <>
      with_it(hold) <>
      ". After its longest backoff it is started alone, when memory stands still; " <>
      "OOM.release({#{short(hold.supervisor)}, #{short(hold.id)}}) starts it now"
  end

  defp failed(hold, reason) do
    times = if hold.failed_starts > 1, do: " (#{hold.failed_starts} times in a row)", else: ""

    "OOM: #{named(hold)} was held and could not be started#{times}: " <>
      inspect(reason, limit: 20, printable_limit: 500) <>
      with_it(hold) <> ". It is tried again after its backoff; OOM.held() lists it"
  end

  defp named(hold), do: "#{short(hold.id)} under #{short(hold.supervisor)}"

  defp with_it(%{id: id, ids: ids}) do
    case ids -- [id] do
      [] -> ""
      others -> "; down with it: " <> Enum.map_join(Enum.take(others, 5), ", ", &short/1)
    end
  end

  defp short(pid) when is_pid(pid) do
    case Process.info(pid, :registered_name) do
      {:registered_name, name} when is_atom(name) -> inspect(name)
      _ -> inspect(pid)
    end
  end

  defp short(term), do: inspect(term, limit: 5, printable_limit: 80)
end
