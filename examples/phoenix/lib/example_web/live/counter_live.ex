defmodule ExampleWeb.CounterLive do
  use Phoenix.LiveView

  @impl true
  def mount(_params, _session, socket), do: {:ok, assign(socket, count: 0, kept: [])}

  @impl true
  def handle_event("add", _params, socket), do: {:noreply, update(socket, :count, &(&1 + 1))}

  # Keeps 8 MB more for each click.
  def handle_event("keep", _params, socket) do
    {:noreply, update(socket, :kept, &[Enum.to_list(1..500_000) | &1])}
  end

  @impl true
  def render(assigns) do
    ~H"""
    <h1>Count: <span id="count"><%= @count %></span></h1>
    <button id="add" phx-click="add">Add</button>
    <button id="keep" phx-click="keep">Keep 8 MB (<%= length(@kept) %>)</button>
    """
  end
end
