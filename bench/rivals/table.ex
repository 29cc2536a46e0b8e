defmodule Rivals.Table do
  @moduledoc false
  # The answers as Markdown, with the notes needed to read them.

  alias Arena.Readme
  alias Rivals.{Cell, Guards, Plan}

  @spec markdown([Cell.t()], Plan.t()) :: String.t()
  def markdown(cells, plan) do
    cells = Map.new(cells, &{{&1.guard, &1.shape}, &1})
    head = ["guard" | Enum.map(plan.shapes, &to_string/1)]

    rows =
      for guard <- plan.guards,
          do: [Guards.title(guard) | Enum.map(plan.shapes, &cell(cells[{guard, &1}], plan))]

    table = Readme.table([head | rows])
    parts = [caption(plan), table, notes(Map.values(cells), plan), Guards.notes()]
    Enum.join(parts, "\n\n") <> "\n"
  end

  @doc "Puts the table between the markers, below the picture."
  @spec into_readme(String.t(), Path.t()) :: :ok
  def into_readme(markdown, path) do
    picture = "![The highest rate survived, under each guard](rivals.svg)"
    Readme.put(path, "rivals", picture <> "\n\n" <> markdown)
  end

  @spec ms(non_neg_integer()) :: String.t()
  def ms(us) when us < 9_950, do: "#{Float.round(us / 1_000, 1)} ms"
  def ms(us), do: "#{round(us / 1_000)} ms"

  defp cell(%{survived: nil} = cell, plan), do: Cell.highest(cell, plan)

  defp cell(cell, plan),
    do: "**#{Cell.highest(cell, plan)}**, #{Cell.innocents(cell)}, #{ms(Cell.canary_us(cell))}"

  defp caption(plan) do
    """
    In each cell: the highest rate in MB/s, of #{plan.workers} workers together, at which \
    #{plan.runs} of #{plan.runs} runs survived; how often one of the 50 innocents was killed in \
    the worst of them; the worst answer of the canary in all of them. `#{lowest(plan)}`: died at \
    #{Cell.rate(List.last(plan.rates))}, too.\
    """
  end

  defp lowest(plan), do: "< #{Cell.rate(List.last(plan.rates))}"

  defp notes(cells, plan) do
    runs = Enum.flat_map(cells, & &1.runs)
    dead = Enum.reject(runs, &Cell.survived?/1)

    kernel =
      Enum.count(dead, &(&1.status == 137 and is_integer(&1.oom_kills) and &1.oom_kills > 0))

    """
    #{length(runs)} runs of `script/rivals` on OTP #{System.otp_release()}, Elixir \
    #{System.version()}, #{System.schedulers_online()} cores; #{mib(plan.limit_bytes)} MiB a VM, of \
    which #{mib(plan.ballast_bytes)} MiB are data that stays. #{kernel} of #{length(dead)} deaths \
    were kills of the kernel. Rates tried: #{Enum.map_join(plan.rates, ", ", &Cell.rate/1)}, from \
    the highest down; the first death ended the runs of its rate, and who survived a rate was not \
    asked about lower ones: that it survives them is assumed.#{together(plan)} A run at full speed \
    lasts #{Plan.seconds(plan, :unlimited)} s, a slower one longer than it takes to fill the \
    limit.#{too_short(cells)}\
    """
  end

  # The control: a rate survived without a guard says nothing about the guards.
  defp too_short(cells) do
    found =
      for %{guard: :none, survived: rate, shape: shape} <- cells,
          rate != nil,
          do: "#{shape} at #{Cell.rate(rate)}"

    if found == [],
      do: "",
      else:
        " Without a guard #{Enum.join(found, ", ")} survived, too: " <>
          "at these rates the runs were too short to say anything."
  end

  defp together(plan) do
    some =
      for rate <- plan.rates,
          n = Plan.at_once(plan, rate),
          n > 1,
          do: "#{n} VMs at #{Cell.rate(rate)}"

    if some == [],
      do: "",
      else: " At once ran #{Enum.join(some, ", ")}, which the canary's answers show."
  end

  defp mib(bytes), do: div(bytes, 1_048_576)
end
