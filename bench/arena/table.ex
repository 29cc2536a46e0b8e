defmodule Arena.Table do
  @moduledoc false
  # The runs as Markdown, a row for each shape.

  alias Arena.{Readme, Run}

  @head [
    "shape",
    "survived",
    "canary, median / worst",
    "before",
    "relief, median / worst",
    "innocents",
    "peak"
  ]

  @spec markdown([Run.t()]) :: String.t()
  def markdown([%{job: job} | _] = runs) do
    shapes = runs |> Enum.map(& &1.job.shape) |> Enum.uniq()
    groups = Enum.group_by(runs, & &1.job.shape)
    rows = for shape <- shapes, do: row(shape, groups[shape])

    """
    #{length(runs)} runs of #{job.seconds} s on OTP #{System.otp_release()}, Elixir \
    #{System.version()}, #{System.schedulers_online()} cores, #{mib(job.limit_bytes)} MiB a VM, \
    growth #{rate(job.bytes_per_s)}; in #{workers(runs)} workers, as many runs of each. Canary: its \
    worst answer in a run; before: the worst of all that came before a first critical sample, where \
    OOM had no part in it. Relief: from the first critical sample to usage below the target, in the \
    runs that came to it. Innocents: how many of the 50 died in the worst run, and in how many runs any did.

    #{Readme.table([@head | rows])}
    """
  end

  defp row(shape, runs) do
    reliefs = runs |> Enum.map(&Run.relief_ms/1) |> Enum.reject(&is_nil/1)

    [
      "#{shape}",
      "#{Enum.count(runs, &Run.survived?/1)} of #{length(runs)}",
      "#{ms(median(runs, :worst_us))} / #{ms(worst(runs, :worst_us))} ms",
      "#{ms(worst(runs, :calm_us))} ms",
      relief(Enum.filter(reliefs, &is_integer/1), Enum.count(reliefs, &(&1 == :never))),
      innocents(worst(runs, :normal_deaths), Enum.count(runs, &lost?/1)),
      "#{runs |> Enum.map(&(&1.peak || 0)) |> Enum.max() |> mib()} MiB"
    ]
  end

  defp relief([], 0), do: "none was needed"
  defp relief([], never), do: "not in #{never}"

  defp relief(ms, never) do
    ms = Enum.sort(ms)
    known = "#{Enum.at(ms, div(length(ms), 2))} / #{List.last(ms)} ms"
    if never == 0, do: known, else: known <> ", not in #{never}"
  end

  defp innocents(0, 0), do: "0"
  defp innocents(most, runs), do: "#{most}, in #{runs}"

  defp lost?(run), do: (run.facts[:normal_deaths] || 0) > 0
  defp worst(runs, key), do: runs |> Enum.map(&(&1.facts[key] || 0)) |> Enum.max()

  defp median(runs, key),
    do: runs |> Enum.map(&(&1.facts[key] || 0)) |> Enum.sort() |> Enum.at(div(length(runs), 2))

  defp workers(runs) do
    {last, others} = runs |> Enum.map(& &1.job.workers) |> Enum.uniq() |> List.pop_at(-1)
    if others == [], do: "#{last}", else: "#{Enum.join(others, ", ")} and #{last}"
  end

  defp rate(:unlimited), do: "as fast as it can"
  defp rate(bytes), do: "at #{div(bytes, 1_000_000)} MB/s"

  defp ms(us), do: round(us / 1_000)
  defp mib(bytes), do: div(bytes, 1_048_576)
end
