defmodule Example.MixProject do
  use Mix.Project

  def project do
    [
      app: :example,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      releases: [example: [include_executables_for: [:unix]]]
    ]
  end

  def application do
    [mod: {Example.Application, []}, extra_applications: [:logger, :runtime_tools]]
  end

  # Phoenix 1.7 and LiveView 0.20 are the newest for Elixir 1.14.0, Debian 12's.
  defp deps do
    [
      {:oom, path: "../.."},
      {:phoenix, "~> 1.7.21"},
      {:phoenix_html, "~> 4.1"},
      {:phoenix_live_view, "~> 0.20.17"},
      {:jason, "~> 1.4"},
      {:bandit, "~> 1.6"},
      {:plug_cowboy, "~> 2.7"}
    ]
  end
end
