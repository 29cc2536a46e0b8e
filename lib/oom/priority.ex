defmodule OOM.Priority do
  @moduledoc false
  # Priorities as the integers the plan is ordered by: the lowest dies first.

  @names %{low: 250, normal: 500, high: 750}
  @expected ":low, :normal, :high, :protected or an integer from 0 to 1000"

  @type t :: :low | :normal | :high | :protected | 0..1000
  @type rank :: 0..1000 | :protected

  @doc "Returns the rank of a priority; raises `ArgumentError` for anything else."
  @spec rank!(t()) :: rank()
  def rank!(priority) do
    case rank(priority) do
      {:ok, rank} ->
        rank

      :error ->
        raise ArgumentError, "expected priority to be #{@expected}, got: #{inspect(priority)}"
    end
  end

  @spec rank(term()) :: {:ok, rank()} | :error
  def rank(:protected), do: {:ok, :protected}
  def rank(name) when is_map_key(@names, name), do: {:ok, @names[name]}
  def rank(number) when is_integer(number) and number in 0..1000, do: {:ok, number}
  def rank(_), do: :error

  @doc "Returns the name of a rank, or the rank itself where there is no name; for logs."
  @spec name(rank()) :: t()
  def name(250), do: :low
  def name(500), do: :normal
  def name(750), do: :high
  def name(rank), do: rank
end
