defmodule OOM.Application do
  @moduledoc false
  # The application environment is read here and nowhere else.

  use Application

  @impl true
  def start(_type, _args) do
    config = :oom |> Application.get_all_env() |> OOM.Config.new!() |> OOM.Config.reachable!()
    OOM.Level.setup()
    OOM.HeapReports.install()
    # The tables' owner does nothing and has no reason to die; if it does, all begin anew.
    Supervisor.start_link([{OOM.Tables, config}, parts(config)],
      strategy: :rest_for_one,
      name: OOM.Application
    )
  end

  @impl true
  def stop(_state) do
    OOM.HeapReports.uninstall()
    OOM.Level.put(:normal)
  end

  # Each finds its state in the tables again, so none takes another down.
  defp parts(config) do
    children = [OOM.Reporter, OOM.Notifier, OOM.Accountant, OOM.Holds, {OOM.Guard, config}]

    %{
      id: :parts,
      start: {Supervisor, :start_link, [children, [strategy: :one_for_one, max_restarts: 100]]},
      type: :supervisor
    }
  end
end
