defmodule Arena.Report do
  @moduledoc false
  # Reports of the runs: a line each, a table at the end, and a file for other programs.

  alias Arena.Run

  @columns [
    {"shape", 16},
    {"workers", 8},
    {"held", 5},
    {"survived", 9},
    {"ended", 6},
    {"still", 6},
    {"by ms", 12},
    {"canary ms", 10},
    {"before", 7},
    {"overkill", 9},
    {"relief ms", 14},
    {"low kills", 10},
    {"caps", 6},
    {"lost", 5},
    {"answer ms", 10},
    {"inverted", 9},
    {"exhausted", 10},
    {"peak MiB", 9}
  ]

  @spec line(Run.t()) :: :ok
  def line(%{facts: facts, job: job} = run) do
    IO.puts(
      "#{pad("#{job.shape}/#{job.workers}", 20)} #{pad("#{job.held_percent} %", 5)}" <>
        "#{pad(Run.verdict(run), 28)} #{lost(facts)}" <>
        "canary #{ms(facts[:worst_us])} ms (#{ms(facts[:calm_us])} before), " <>
        "#{facts[:low_kills]} kills, #{facts[:low_caps]} caps, " <>
        "#{facts[:inversions]} innocents before a low, worst answer #{ms(facts[:asked_us])} ms, " <>
        "#{facts[:other_deaths]} other, overkill #{ratio(Run.overkill(run))}, " <>
        "relief #{Run.relief_ms(run) || "-"} ms, exhausted #{facts[:exhausted]}, " <>
        "peak #{mib(run.peak)} MiB"
    )
  end

  @spec table([Run.t()]) :: :ok
  def table(runs) do
    IO.puts("")
    row(Enum.map(@columns, &elem(&1, 0)))

    for {{shape, workers, held}, group} <- grouped(runs) do
      reliefs = group |> Enum.map(&Run.relief_ms/1) |> Enum.reject(&is_nil/1) |> Enum.sort()
      overkills = group |> Enum.map(&Run.overkill/1) |> Enum.reject(&is_nil/1) |> Enum.sort()

      row([
        shape,
        workers,
        "#{held} %",
        "#{Enum.count(group, &Run.survived?/1)} of #{length(group)}",
        decided(group, :ended),
        decided(group, :still),
        by_ms(group),
        ms(most(group, :worst_us)),
        ms(group |> values(:calm_us) |> median()),
        ratio(median(overkills)),
        "#{median(reliefs) || "-"} / #{List.last(reliefs) || "-"}",
        group |> values(:low_kills) |> median(),
        group |> values(:low_caps) |> median(),
        most(group, :innocents_lost),
        ms(most(group, :asked_us)),
        most(group, :inversions),
        Enum.count(values(group, :exhausted), &(&1 > 0)),
        group |> Enum.map(&(&1.peak || 0)) |> Enum.max() |> mib()
      ])
    end

    IO.puts(
      "\nworst of all runs: canary, lost, answer, inverted, peak; median / worst: by, relief"
    )

    IO.puts(
      "ended: all culprits were; still: the rest stands still by itself; by: when it was so"
    )

    IO.puts("lost: innocents that died or took more than 5 s to answer; answer: their worst")
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

  @doc "Prints the runs not survived or harmful to innocents, each with its log; `true` where there is none."
  @spec failures([Run.t()]) :: boolean()
  def failures(runs) do
    {survived, dead} = Enum.split_with(runs, &Run.survived?/1)
    harmful = Enum.reject(survived, &Run.clean?/1)
    failures("not survived", dead)
    failures("survived, but innocents died or were too late", harmful)
    dead == [] and harmful == []
  end

  defp failures(_what, []), do: :ok

  defp failures(what, runs) do
    IO.puts("\n#{what}:")

    for %{job: job} = run <- runs do
      log = if run.log == "", do: "recorded before", else: run.log
      which = "#{job.shape}/#{job.workers} #{job.held_percent} %"
      IO.puts("  #{pad(which, 24)} #{Run.verdict(run)} #{lost(run.facts)} #{log}")
    end

    :ok
  end

  defp lost(facts) do
    case facts[:innocents_lost] || 0 do
      0 -> ""
      n -> "LOST #{n} INNOCENTS (#{facts[:timeouts]} by timeout), "
    end
  end

  defp decided(group, how), do: Enum.count(group, &(&1.facts[:decision] == how))

  defp by_ms(group) do
    decided = for %{facts: facts} <- group, facts[:decision] in [:ended, :still], do: facts
    ms = decided |> Enum.map(& &1[:decided_ms]) |> Enum.sort()
    if ms == [], do: "-", else: "#{median(ms)} / #{List.last(ms)}"
  end

  # In order of the runs.
  defp grouped(runs) do
    key = &{&1.job.shape, &1.job.workers, &1.job.held_percent}
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
