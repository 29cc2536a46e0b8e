defmodule OOM.Supervisor.Reports do
  @moduledoc false
  # A supervisor's reports name the start function of the child. Before any handler sees the report, this
  # filter puts the user's start function in place of the wrapper. Filters run in the reporting process,
  # so the supervisor's notes on the child are at hand.

  alias OOM.Child

  @spec install() :: :ok
  def install, do: OOM.LogFilter.install(__MODULE__)

  @spec uninstall() :: :ok
  def uninstall, do: OOM.LogFilter.uninstall(__MODULE__)

  @doc false
  @spec filter(:logger.log_event(), term()) :: :logger.filter_return()
  def filter(
        %{msg: {:report, %{label: {:supervisor, _}, report: report} = outer}} = event,
        _
      )
      when is_list(report) do
    %{event | msg: {:report, %{outer | report: Enum.map(report, &child/1)}}}
  end

  def filter(_event, _), do: :ignore

  defp child({key, child}) when key in [:offender, :started] and is_list(child) do
    case List.keyfind(child, :mfargs, 0) do
      {:mfargs, mfargs} ->
        {:id, id} = List.keyfind(child, :id, 0, {:id, nil})
        {key, List.keyreplace(child, :mfargs, 0, {:mfargs, Child.Spec.unwrap_mfa(mfargs, id)})}

      nil ->
        {key, child}
    end
  end

  defp child(other), do: other
end
