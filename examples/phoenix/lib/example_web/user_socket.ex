defmodule ExampleWeb.UserSocket do
  use Phoenix.Socket

  channel "room:*", ExampleWeb.RoomChannel

  @impl true
  def connect(params, socket, _info), do: {:ok, assign(socket, :user, params["user"] || "guest")}

  @impl true
  def id(_socket), do: nil
end
