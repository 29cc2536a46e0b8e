import Config

config :phoenix, json_library: Jason

config :example, ExampleWeb.Endpoint,
  render_errors: [formats: [json: ExampleWeb.ErrorJSON], layout: false],
  pubsub_server: Example.PubSub,
  live_view: [signing_salt: "example-salt"],
  check_origin: false

config :logger, level: :info
