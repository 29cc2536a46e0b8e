defmodule Rivals.Cell do
  @moduledoc false
  # A guard and a shape: the runs so far, and the highest rate survived.

  alias Arena.Run
  alias Rivals.Plan

  @enforce_keys [:guard, :shape]
  # `survived` stays `nil` where no rate was survived.
  defstruct [:guard, :shape, :survived, runs: []]

  @type t :: %__MODULE__{}

  @doc "Tells whether the VM lives and the canary was the same process all along: it answered."
  @spec survived?(Run.t()) :: boolean()
  def survived?(run), do: Run.survived?(run) and run.facts[:protected_deaths] == 0

  @spec add(t(), [Run.t()]) :: t()
  def add(cell, runs), do: %{cell | runs: runs ++ cell.runs}

  @doc "Returns the most innocents that died in a run at the highest rate survived."
  @spec innocents(t()) :: non_neg_integer()
  def innocents(cell), do: worst(cell, :normal_deaths)

  @doc "Returns the canary's worst answer in all runs at the highest rate survived."
  @spec canary_us(t()) :: non_neg_integer()
  def canary_us(cell), do: worst(cell, :worst_us)

  @spec rate(Plan.rate()) :: String.t()
  def rate(:unlimited), do: "unlimited"
  def rate(bytes_per_s), do: "#{div(bytes_per_s, 1_000_000)}"

  @doc "Returns the highest rate survived, in a word; the plan's lowest rate is the least."
  @spec highest(t(), Plan.t()) :: String.t()
  def highest(%{survived: nil}, plan), do: "< #{rate(List.last(plan.rates))}"
  def highest(cell, _plan), do: rate(cell.survived)

  defp worst(cell, key) do
    cell.runs
    |> Enum.filter(&(&1.job.bytes_per_s == cell.survived))
    |> Enum.map(&(&1.facts[key] || 0))
    |> Enum.max(fn -> 0 end)
  end
end
