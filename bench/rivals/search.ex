defmodule Rivals.Search do
  @moduledoc false
  # From the highest rate down, all guards and shapes side by side. A guard that survives a rate
  # in all runs is done; a death ends the runs of its rate. So a guard that survives a rate is
  # assumed to survive all lower rates.

  alias Arena.Run
  alias Rivals.{Cell, Plan}

  @type heard :: (atom(), Run.t() -> term())

  @doc "Returns every cell with its answer; calls `heard` with each run. Throws a run that did not begin."
  @spec run(Plan.t(), heard()) :: [Cell.t()] | no_return()
  def run(plan, heard) do
    cells = for guard <- plan.guards, shape <- plan.shapes, do: %Cell{guard: guard, shape: shape}
    Enum.reduce(plan.rates, cells, &at(&1, &2, plan, heard))
  end

  defp at(rate, cells, plan, heard) do
    {open, done} = Enum.split_with(cells, &is_nil(&1.survived))
    {alive, dead} = Enum.reduce(waves(plan, rate), {open, []}, &wave(&1, &2, rate, plan, heard))
    done ++ Enum.map(alive, &%{&1 | survived: rate}) ++ dead
  end

  # The first run alone, because most deaths happen there.
  defp waves(plan, rate),
    do: [[1] | Enum.chunk_every(2..plan.runs//1, Plan.at_once(plan, rate))]

  defp wave(numbers, {alive, dead}, rate, plan, heard) do
    tries = for cell <- alive, n <- numbers, do: {cell, n}

    runs =
      tries
      |> Task.async_stream(&try_once(&1, rate, plan, heard),
        max_concurrency: Plan.at_once(plan, rate),
        timeout: :infinity
      )
      |> Enum.map(fn {:ok, run} -> run end)

    # A guard that could not start, or a missing cgroup, would pass for a death.
    with %Run{} = run <- Enum.find(runs, &(not begun?(&1))), do: throw({:not_begun, run})

    # As many of each cell, in the cells' order.
    alive
    |> Enum.zip_with(Enum.chunk_every(runs, length(numbers)), &Cell.add/2)
    |> Enum.split_with(fn cell -> cell.runs |> Enum.take(length(numbers)) |> survived?() end)
    |> then(fn {alive, died} -> {alive, died ++ dead} end)
  end

  defp survived?(runs), do: Enum.all?(runs, &Cell.survived?/1)

  defp begun?(run), do: run.pid != nil

  defp try_once({cell, n}, rate, plan, heard) do
    log = "tmp/rivals/#{cell.guard}-#{cell.shape}-#{Cell.rate(rate)}-#{n}.log"
    run = plan |> Plan.job(cell.guard, cell.shape, rate) |> Run.run(Run.vm(), log)
    if begun?(run), do: heard.(cell.guard, run)
    run
  end
end
