defmodule ExampleWeb.Endpoint do
  use Phoenix.Endpoint, otp_app: :example

  @session [store: :cookie, key: "_example", signing_salt: "example-salt"]

  socket "/socket", ExampleWeb.UserSocket, websocket: true, longpoll: false
  socket "/live", Phoenix.LiveView.Socket, websocket: [connect_info: [session: @session]]

  # The scripts of Phoenix and LiveView as they ship, so that the example needs no npm.
  plug Plug.Static, at: "/js/phoenix", from: {:phoenix, "priv/static"}
  plug Plug.Static, at: "/js/live_view", from: {:phoenix_live_view, "priv/static"}

  plug Plug.RequestId
  plug Plug.Telemetry, event_prefix: [:phoenix, :endpoint]

  plug Plug.Parsers,
    parsers: [:json, :multipart],
    pass: ["*/*"],
    length: 200_000_000,
    json_decoder: Phoenix.json_library()

  plug Plug.Session, @session
  plug ExampleWeb.Router
end
