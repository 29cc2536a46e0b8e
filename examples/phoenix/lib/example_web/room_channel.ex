defmodule ExampleWeb.RoomChannel do
  use Phoenix.Channel
  alias ExampleWeb.Presence

  @impl true
  def join("room:" <> _, params, socket) do
    send(self(), :joined)
    {:ok, assign(socket, kept: [], leak_bytes: params["leak_bytes"] || 0)}
  end

  @impl true
  def handle_info(:joined, socket) do
    {:ok, _} = Presence.track(socket, socket.assigns.user, %{})
    if socket.assigns.leak_bytes > 0, do: Process.send_after(self(), :leak, 100)
    {:noreply, socket}
  end

  # A channel that keeps a little more of what it is told ten times a second.
  def handle_info(:leak, socket) do
    Process.send_after(self(), :leak, 100)
    words = div(socket.assigns.leak_bytes, 16 * 10)
    {:noreply, assign(socket, :kept, [Enum.to_list(1..words//1) | socket.assigns.kept])}
  end

  @impl true
  def handle_in("ping", params, socket), do: {:reply, {:ok, params}, socket}

  def handle_in("say", params, socket) do
    broadcast!(socket, "said", params)
    {:noreply, socket}
  end
end
