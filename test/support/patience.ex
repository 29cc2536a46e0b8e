defmodule OOM.Test.Patience do
  @moduledoc false
  # Deadlines are made for a machine running our code natively. In an emulator (script/lab v2)
  # everything takes longer, by the factor OOM_TEST_PATIENCE.

  @doc "Returns a deadline in ms, or a number of attempts, for the machine of the tests."
  @spec times(pos_integer()) :: pos_integer()
  def times(number), do: number * factor()

  @doc "Returns the part of `number` the machine gets done in the same time."
  @spec share(pos_integer()) :: pos_integer()
  def share(number), do: max(div(number, factor()), 1)

  defp factor, do: "OOM_TEST_PATIENCE" |> System.get_env("1") |> String.to_integer()
end
