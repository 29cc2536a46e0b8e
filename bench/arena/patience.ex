defmodule Arena.Patience do
  @moduledoc false
  # Deadlines before and after a leak are made for a machine running our code natively. In an
  # emulator (script/lab v2) everything takes longer, by the factor OOM_TEST_PATIENCE.

  @doc "Returns a deadline in ms, for the machine of the arena."
  @spec times(pos_integer()) :: pos_integer()
  def times(ms), do: ms * String.to_integer(System.get_env("OOM_TEST_PATIENCE", "1"))
end
