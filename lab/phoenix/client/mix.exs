defmodule Client.MixProject do
  use Mix.Project

  def project do
    [app: :client, version: "0.1.0", elixir: "~> 1.14", deps: deps()]
  end

  def application, do: [extra_applications: [:logger, :ssl]]

  defp deps do
    [{:mint, "~> 1.6"}, {:mint_web_socket, "~> 1.0"}, {:jason, "~> 1.4"}]
  end
end
