defmodule Arena.Patience do
  @moduledoc false
  # Deadlines of what comes before and after a leak are made for a machine that runs our code itself. In
  # an emulator (script/lab v2) all takes longer, and OOM_TEST_PATIENCE says how many times.

  @doc "A deadline in ms, for the machine the arena runs on."
  @spec times(pos_integer()) :: pos_integer()
  def times(ms), do: ms * String.to_integer(System.get_env("OOM_TEST_PATIENCE", "1"))
end
