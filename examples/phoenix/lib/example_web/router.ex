defmodule ExampleWeb.Router do
  use Phoenix.Router, helpers: false
  import Phoenix.LiveView.Router

  pipeline :browser do
    plug :accepts, ["html"]
    plug :fetch_session
    plug :put_root_layout, html: {ExampleWeb.Layout, :root}
    plug :protect_from_forgery
  end

  scope "/", ExampleWeb do
    pipe_through :browser
    live "/", CounterLive
  end

  scope "/api", ExampleWeb do
    get "/health", ApiController, :health
    get "/census", ApiController, :census
    post "/work", ApiController, :work
    post "/echo", ApiController, :echo
    post "/upload", ApiController, :upload
  end
end
