defmodule OOM.Test.Eventually do
  @moduledoc false
  # For states without a message: polls until true. The deadline is only for failures.

  alias OOM.Test.Patience

  @deadline_ms 10_000
  @pause_ms 2

  @doc "Waits until `fun` returns a truthy value, and returns the value."
  @spec eventually((() -> result)) :: result when result: term()
  def eventually(fun), do: poll(fun, now() + Patience.times(@deadline_ms))

  defp poll(fun, deadline) do
    cond do
      result = fun.() ->
        result

      now() > deadline ->
        ExUnit.Assertions.flunk(
          "not so within #{Patience.times(@deadline_ms)} ms: #{inspect(fun)}"
        )

      true ->
        Process.sleep(@pause_ms)
        poll(fun, deadline)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
