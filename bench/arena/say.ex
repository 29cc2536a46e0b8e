defmodule Arena.Say do
  @moduledoc false
  # Messages between the VM under test and the arena: one term a line. The VM writes directly,
  # without asking any process: a writer process may not get a turn before the end.

  @spec say(atom(), keyword()) :: true
  def say(what, facts), do: :erlang.display({:arena, what, facts})

  @doc """
  Like `say/2`, for the last word: whole, in a separate line, and written before the VM halts. A
  line of the log may cut the output of `say/2`, and a buffer may lose it.
  """
  @spec say_last(atom(), keyword()) :: :ok | {:error, term()}
  def say_last(what, facts),
    do: File.write("/proc/self/fd/1", :io_lib.format("~n~w.~n", [{:arena, what, facts}]))

  @doc "Parses a message line; `:no` for any other line."
  @spec heard(String.t()) :: {atom(), keyword()} | :no
  def heard("{arena," <> _ = line) do
    line = String.trim_trailing(line, ".") <> "."

    with {:ok, tokens, _} <- line |> String.to_charlist() |> :erl_scan.string(),
         {:ok, {:arena, what, facts}} <- :erl_parse.parse_term(tokens) do
      {what, facts}
    else
      # Cut off by the end of its VM.
      _ -> :no
    end
  end

  def heard(_line), do: :no
end
