defmodule Arena.Table do
  @moduledoc false
  # The runs as Markdown, a row for each shape at each height.

  alias Arena.{Readme, Run}

  @head [
    "held",
    "shape",
    "survived",
    "ended / still",
    "by, median / worst",
    "innocents lost",
    "their worst answer",
    "canary, median / worst",
    "peak"
  ]

  @spec markdown([Run.t()]) :: String.t()
  def markdown([%{job: job} | _] = runs) do
    groups = Enum.group_by(runs, &{&1.job.held_percent, &1.job.shape})
    # At each height the shapes in order of the runs.
    keys = runs |> Enum.map(&{&1.job.held_percent, &1.job.shape}) |> Enum.uniq()
    rows = for {held, _} = key <- Enum.sort_by(keys, &elem(&1, 0)), do: row(held, groups[key])

    """
    #{length(runs)} runs on OTP #{words(runs, & &1.otp)}, #{System.schedulers_online()} cores, \
    #{div(job.limit_bytes, 1_048_576)} MiB a VM, growth #{rate(job.bytes_per_s)}#{foreign(job)}; in \
    #{words(runs, & &1.job.workers)} workers, as many runs of each. Decision code \
    #{words(runs, & &1.hash)}.#{ends(job)} Innocents lost: how many of the 50 died or took more than 5 s to \
    answer in the worst run, and in how many runs any did. Canary: its worst answer in a run.

    #{Readme.table([@head | rows])}
    """
  end

  defp ends(%{return?: true} = job),
    do: " Culprits come back and grow again for #{job.seconds} s."

  defp ends(job) do
    " Held: of the limit, by the node as the culprits begin. A run is over when all culprits have " <>
      "been ended, or stand still by themselves (throttled is neither), and survived if that is so " <>
      "within #{job.seconds} s; by: when it was."
  end

  defp row(held, [%{job: job} | _] = runs) do
    [
      "#{held} %",
      "#{job.shape}",
      "#{Enum.count(runs, &Run.survived?/1)} of #{length(runs)}",
      "#{decided(runs, :ended)} / #{decided(runs, :still)}",
      by(for run <- runs, run.facts[:decision] in [:ended, :still], do: run.facts[:decided_ms]),
      innocents(worst(runs, :innocents_lost), Enum.count(runs, &(not Run.clean?(&1)))),
      "#{ms(worst(runs, :asked_us))} ms",
      "#{ms(median(values(runs, :worst_us)))} / #{ms(worst(runs, :worst_us))} ms",
      "#{runs |> Enum.map(&(&1.peak || 0)) |> Enum.max() |> div(1_048_576)} MiB"
    ]
  end

  defp by([]), do: "-"
  defp by(all), do: "#{s(median(all))} / #{s(Enum.max(all))} s"

  defp innocents(0, 0), do: "0"
  defp innocents(most, runs), do: "#{most}, in #{runs}"

  defp decided(runs, how), do: Enum.count(runs, &(&1.facts[:decision] == how))
  defp values(runs, key), do: Enum.map(runs, &(&1.facts[key] || 0))
  defp worst(runs, key), do: runs |> values(key) |> Enum.max()
  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  defp words(runs, value) do
    {last, others} = runs |> Enum.map(value) |> Enum.uniq() |> Enum.sort() |> List.pop_at(-1)
    if others == [], do: "#{last}", else: "#{Enum.join(others, ", ")} and #{last}"
  end

  defp rate(:unlimited), do: "as fast as it can"
  defp rate(bytes), do: "at #{div(bytes, 1_000_000)} MB/s"

  defp foreign(job) do
    burners = if job.burners > 0, do: ", #{job.burners} foreign processes burn CPU"
    quota = if job.quota_percent, do: ", the VM may use #{job.quota_percent} % of one core"
    config = if job.config != [], do: ", with `#{inspect(job.config)}`"
    "#{burners}#{quota}#{config}"
  end

  defp ms(us), do: round(us / 1_000)
  defp s(ms), do: Float.round(ms / 1_000, 1)
end
