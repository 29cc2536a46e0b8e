defmodule OOM.Holds.Alarm do
  @moduledoc false
  # Says that a worker is given up: in the log, and as an alarm of SASL's where that runs.

  require Logger

  alias OOM.Hold

  @spec raise_for(Hold.t()) :: :ok
  def raise_for(%Hold{} = hold) do
    Logger.error(fn -> message(hold) end)
    tell(:set_alarm, {id(hold), message(hold)})
  end

  @doc "Ends the alarm of one that was given up; of others there is none."
  @spec clear(Hold.t() | nil) :: :ok
  def clear(%Hold{state: :given_up} = hold), do: tell(:clear_alarm, id(hold))
  def clear(_hold), do: :ok

  defp id(hold), do: {:oom_given_up, Hold.key(hold)}

  # Both are a message to the handler, and nobody waits.
  defp tell(function, argument) do
    if Process.whereis(:alarm_handler), do: apply(:alarm_handler, function, [argument])
    :ok
  end

  defp message(hold) do
    "OOM: #{short(hold.id)} under #{short(hold.supervisor)} is given up: it was killed " <>
      "#{hold.kills} times for its memory without living for stable_ms in between, and last held " <>
      "#{Float.round(hold.bytes / 1_048_576, 1)} MiB" <>
      with_it(hold) <>
      ". It stays down until OOM.release({#{short(hold.supervisor)}, #{short(hold.id)}}); " <>
      "OOM.held() lists it"
  end

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
