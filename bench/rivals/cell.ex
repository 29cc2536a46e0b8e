defmodule Rivals.Cell do
  @moduledoc false
  # One guard and one shape: its runs so far, and the highest rate survived.

  alias Arena.Run
  alias Rivals.Plan

  @enforce_keys [:guard, :shape]
  # `survived` stays `nil` where no rate was.
  defstruct [:guard, :shape, :survived, runs: []]

  @type t :: %__MODULE__{}

  @doc "The VM lives, and the canary was the same process all along: it answered."
  @spec survived?(Run.t()) :: boolean()
  def survived?(run), do: Run.survived?(run) and run.facts[:protected_deaths] == 0

  @spec add(t(), [Run.t()]) :: t()
  def add(cell, runs), do: %{cell | runs: runs ++ cell.runs}

  @doc "The most of the innocents that died in a run at the highest rate survived."
  @spec innocents(t()) :: non_neg_integer()
  def innocents(cell), do: worst(cell, :normal_deaths)

  @doc "The canary's worst answer in all runs at that rate."
  @spec canary_us(t()) :: non_neg_integer()
  def canary_us(cell), do: worst(cell, :worst_us)

  @spec rate(Plan.rate()) :: String.t()
  def rate(:unlimited), do: "unlimited"
  def rate(bytes_per_s), do: "#{div(bytes_per_s, 1_000_000)}"

  @doc "What was survived, in a word; the plan's lowest rate is the least there is."
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
