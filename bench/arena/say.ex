defmodule Arena.Say do
  @moduledoc false
  # The words between the VM under test and the arena: one term a line. The VM writes them itself,
  # without asking any process: whoever writes for others may not get a turn before the end.

  @spec say(atom(), keyword()) :: true
  def say(what, facts), do: :erlang.display({:arena, what, facts})

  @doc """
  The same for the last word: whole, in a line of its own, and there before the VM halts. What `say/2` writes
  may be cut by a line of the log, and lost in a buffer.
  """
  @spec say_last(atom(), keyword()) :: :ok | {:error, term()}
  def say_last(what, facts),
    do: File.write("/proc/self/fd/1", :io_lib.format("~n~w.~n", [{:arena, what, facts}]))

  @doc "A line that is one of them."
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
