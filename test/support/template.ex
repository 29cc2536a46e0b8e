defmodule OOM.Test.Template do
  @moduledoc false
  # An Erlang supervisor of what it is given.
  @behaviour :supervisor

  @impl true
  def init({flags, children}), do: {:ok, {flags, children}}
end
