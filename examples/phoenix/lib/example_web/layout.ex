defmodule ExampleWeb.Layout do
  @moduledoc false
  use Phoenix.Component

  def root(assigns) do
    ~H"""
    <!DOCTYPE html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="csrf-token" content={Plug.CSRFProtection.get_csrf_token()} />
        <title>OOM example</title>
        <script src="/js/phoenix/phoenix.min.js"></script>
        <script src="/js/live_view/phoenix_live_view.min.js"></script>
        <script>
          addEventListener("DOMContentLoaded", () => {
            const token = document.querySelector("meta[name=csrf-token]").content
            new LiveView.LiveSocket("/live", Phoenix.Socket, {params: {_csrf_token: token}}).connect()
          })
        </script>
      </head>
      <body><%= @inner_content %></body>
    </html>
    """
  end
end
