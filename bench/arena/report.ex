defmodule Arena.Report do
  @moduledoc false
  # What the runs were like: a line each, a table at the end, and a file for other programs.

  alias Arena.Run

  @columns [
    {"shape", 16},
    {"workers", 8},
    {"survived", 9},
    {"canary ms", 10},
    {"before", 7},
    {"overkill", 9},
    {"relief ms", 14},
    {"low kills", 10},
    {"caps", 6},
    {"normal", 7},
    {"inverted", 9},
    {"exhausted", 10},
    {"peak MiB", 9}
  ]

  @spec line(Run.t()) :: :ok
  def line(%{facts: facts, job: job} = run) do
    IO.puts(
      "#{pad("#{job.shape}/#{job.workers}", 20)} #{pad(Run.verdict(run), 24)} " <>
        "canary #{ms(facts[:worst_us])} ms (#{ms(facts[:calm_us])} before), " <>
        "#{facts[:low_kills]} kills, #{facts[:low_caps]} caps, " <>
        "#{facts[:normal_deaths]} normal (#{facts[:inversions]} before a low), " <>
        "#{facts[:other_deaths]} other, overkill #{ratio(Run.overkill(run))}, " <>
        "relief #{Run.relief_ms(run) || "-"} ms, exhausted #{facts[:exhausted]}, " <>
        "peak #{mib(run.peak)} MiB"
    )
  end

  @spec table([Run.t()]) :: :ok
  def table(runs) do
    IO.puts("")
    row(Enum.map(@columns, &elem(&1, 0)))

    for {{shape, workers}, group} <- grouped(runs) do
      reliefs = group |> Enum.map(&Run.relief_ms/1) |> Enum.reject(&is_nil/1) |> Enum.sort()
      overkills = group |> Enum.map(&Run.overkill/1) |> Enum.reject(&is_nil/1) |> Enum.sort()

      row([
        shape,
        workers,
        "#{Enum.count(group, &Run.survived?/1)} of #{length(group)}",
        ms(most(group, :worst_us)),
        ms(group |> values(:calm_us) |> median()),
        ratio(median(overkills)),
        "#{median(reliefs) || "-"} / #{List.last(reliefs) || "-"}",
        group |> values(:low_kills) |> median(),
        group |> values(:low_caps) |> median(),
        most(group, :normal_deaths),
        most(group, :inversions),
        Enum.count(values(group, :exhausted), &(&1 > 0)),
        group |> Enum.map(&(&1.peak || 0)) |> Enum.max() |> mib()
      ])
    end

    IO.puts("\nworst of all runs: canary, normal, inverted, peak; median / worst: relief")
    IO.puts("before: median of the canary's worst answer before the first critical sample")
    overkill(runs |> Enum.map(&Run.overkill/1) |> Enum.reject(&is_nil/1) |> Enum.sort())
  end

  defp overkill([]), do: :ok

  defp overkill([least | _] = all) do
    IO.puts(
      "overkill, all #{length(all)} runs that tell it: median #{ratio(median(all))} " <>
        "(#{ratio(least)} to #{ratio(List.last(all))})"
    )
  end

  @doc "The deaths, each with its log; `true` where there are none."
  @spec deaths([Run.t()]) :: boolean()
  def deaths(runs) do
    dead = Enum.reject(runs, &Run.survived?/1)
    if dead != [], do: IO.puts("\nnot survived:")

    for run <- dead,
        do: IO.puts("  #{run.job.shape}/#{run.job.workers} #{Run.verdict(run)}: #{run.log}")

    dead == []
  end

  # In the order in which they ran.
  defp grouped(runs) do
    key = &{&1.job.shape, &1.job.workers}
    groups = Enum.group_by(runs, key)
    runs |> Enum.map(key) |> Enum.uniq() |> Enum.map(&{&1, groups[&1]})
  end

  defp row(cells) do
    @columns
    |> Enum.zip_with(cells, fn {_, width}, cell -> pad("#{cell}", width) end)
    |> Enum.join(" ")
    |> String.trim_trailing()
    |> IO.puts()
  end

  defp values(group, key), do: Enum.map(group, &(&1.facts[key] || 0))
  defp most(group, key), do: group |> values(key) |> Enum.max()

  # `:never` sorts after all numbers.
  defp median([]), do: nil
  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  defp pad(text, width), do: String.pad_trailing(text, width)
  defp ms(nil), do: "?"
  defp ms(us), do: Float.round(us / 1_000, 1)
  defp ratio(nil), do: "-"
  defp ratio(value), do: Float.round(value, 2)
  defp mib(nil), do: "?"
  defp mib(bytes), do: div(bytes, 1_048_576)
end
