defmodule OOM.Test.Template do
  @moduledoc false
  # An Erlang supervisor with the given flags and children.
  @behaviour :supervisor

  @impl true
  def init({flags, children}), do: {:ok, {flags, children}}
end
