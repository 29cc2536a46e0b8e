defmodule OOM.Bridge.Target do
  @moduledoc false
  # The hosts that a bridge tells.

  @doc "Tells a target that the alarm of this level is set or cleared."
  @spec tell(OOM.Bridge.target(), :set | :clear, OOM.level()) :: :ok | {:error, String.t()}
  def tell(target, what, level) do
    told(target, what, level)
  rescue
    error -> {:error, Exception.message(error)}
  catch
    kind, reason -> {:error, Exception.format_banner(kind, reason)}
  end

  # RabbitMQ keeps alarms by node. Its own monitor of memory tells only of changes, so both may set the alarm.
  defp told(:rabbit_alarm, what, _level),
    do: notify(:rabbit_alarm, what, {:resource_limit, :memory, node()})

  defp told(:alarm_handler, what, level), do: notify(:alarm_handler, what, {:oom, level})

  defp told({module, function, arguments}, what, _level) do
    _ = apply(module, function, [what | arguments])
    :ok
  end

  defp told(fun, what, _level) do
    _ = fun.(what)
    :ok
  end

  # Both managers take the same events. A message to a manager that does not run would be lost.
  defp notify(name, what, alarm) do
    event = if what == :set, do: {:set_alarm, {alarm, []}}, else: {:clear_alarm, alarm}

    if Process.whereis(name),
      do: :gen_event.notify(name, event),
      else: {:error, "no process has the name #{inspect(name)}"}
  end
end
