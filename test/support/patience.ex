defmodule OOM.Test.Patience do
  @moduledoc false
  # Deadlines are made for a machine that runs our code itself. In an emulator (script/lab v2) all
  # takes longer, and OOM_TEST_PATIENCE says how many times.

  @doc "A deadline in ms, or a number of attempts, for the machine the tests run on."
  @spec times(pos_integer()) :: pos_integer()
  def times(number), do: number * factor()

  @doc "How many of so many it gets to in the same time."
  @spec share(pos_integer()) :: pos_integer()
  def share(number), do: max(div(number, factor()), 1)

  defp factor, do: "OOM_TEST_PATIENCE" |> System.get_env("1") |> String.to_integer()
end
