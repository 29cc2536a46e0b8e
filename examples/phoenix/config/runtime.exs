import Config

# ADAPTER is bandit or cowboy, PORT the port of the endpoint.
adapter =
  case System.get_env("ADAPTER", "bandit") do
    "bandit" -> Bandit.PhoenixAdapter
    "cowboy" -> Phoenix.Endpoint.Cowboy2Adapter
  end

config :example, ExampleWeb.Endpoint,
  adapter: adapter,
  server: true,
  url: [host: "localhost"],
  http: [ip: {127, 0, 0, 1}, port: String.to_integer(System.get_env("PORT", "4000"))],
  # For an example. A service keeps its own secret in its environment.
  secret_key_base: System.get_env("SECRET_KEY_BASE", String.duplicate("example-", 8))
