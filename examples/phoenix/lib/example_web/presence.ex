defmodule ExampleWeb.Presence do
  use Phoenix.Presence, otp_app: :example, pubsub_server: Example.PubSub
end
