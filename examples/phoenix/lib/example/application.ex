defmodule Example.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    children = [
      {Phoenix.PubSub, name: Example.PubSub},
      ExampleWeb.Presence,
      ExampleWeb.Endpoint
    ]

    # OOM=off is the same app without OOM, for a comparison.
    supervisor = if System.get_env("OOM") == "off", do: Supervisor, else: OOM.Supervisor

    with {:ok, pid} <- supervisor.start_link(children, strategy: :one_for_one) do
      Example.Census.take(pid)
      {:ok, pid}
    end
  end
end
