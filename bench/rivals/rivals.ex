defmodule Rivals do
  @moduledoc false
  # How fast may a leak be, under each of the guards people use? Started by script/rivals.

  alias Arena.{Arguments, Run}
  alias Rivals.{Cell, Chart, Guards, Plan, Search, Table}

  @usage """
  usage: script/rivals [OPTIONS]

    --guards a,b   which guards (default: all but memsup_1s)
    --shapes a,b   which ways to grow (default: list,map,binaries,ets,mailbox,mixture)
    --workers N    how many workers grow (default: 4)
    --rates a,b    MB/s of all workers together, or unlimited (default: 5,20,100,500,unlimited)
    --runs N       runs of each that must all survive (default: 5)
    --limit M      MiB of the cgroup (default: 512)
    --ballast M    MiB of live data that does not grow (default: 128)
    --keep-logs    keep all logs, not only those of OOM's deaths
    --write        put the table into docs/evidence.md, and draw docs/rivals.svg
    --short        a little of it, in less than a minute

  Status 1: a node with OOM died. Others are meant to.

  guards:
  """

  @switches [
    guards: :string,
    shapes: :string,
    workers: :integer,
    rates: :string,
    runs: :integer,
    limit: :integer,
    ballast: :integer,
    keep_logs: :boolean,
    write: :boolean,
    short: :boolean,
    help: :boolean
  ]

  @default [
    shapes: "list,map,binaries,ets,mailbox,mixture",
    rates: "5,20,100,500,unlimited",
    workers: 4,
    runs: 5,
    limit: 512,
    ballast: 128
  ]
  @short [guards: "none,poll_100ms,oom", shapes: "list,binaries", rates: "unlimited", runs: 1]

  @spec main([String.t()]) :: no_return()
  def main(arguments) do
    with {options, [], []} <- OptionParser.parse(arguments, strict: @switches),
         false <- options[:help] == true,
         {:ok, plan} <- plan(options) do
      System.halt(if run(plan, options), do: 0, else: 1)
    else
      true -> stop(0, usage())
      {:error, what} -> stop(2, what <> "\n\n" <> usage())
      _ -> stop(2, usage())
    end
  catch
    {:not_begun, run} -> stop(2, "a run did not begin: #{run.log}")
  end

  defp run(plan, options) do
    cells = Search.run(plan, &heard(&1, &2, plan))
    table = Table.markdown(cells, plan)
    IO.puts(["\n", table])

    if options[:write] do
      File.write!("docs/rivals.svg", Chart.svg(cells, plan))
      Table.into_readme(table, "docs/evidence.md")
      IO.puts("written: docs/evidence.md, docs/rivals.svg")
    end

    oom = for %{guard: :oom} = cell <- cells, run <- cell.runs, do: run
    survived = Enum.count(oom, &Cell.survived?/1)
    IO.puts(closing(cells, plan, survived, length(oom)))
    survived == length(oom)
  end

  defp closing(cells, plan, survived, oom) do
    runs = cells |> Enum.map(&length(&1.runs)) |> Enum.sum()

    "rivals: #{length(plan.shapes)} shapes, #{length(plan.guards)} guards, #{runs} runs, " <>
      "OOM survived #{survived} of #{oom}"
  end

  # A line for each run.
  defp heard(guard, %{facts: facts, job: job} = run, plan) do
    survived? = Cell.survived?(run)
    unless plan.keep_logs? or (guard == :oom and not survived?), do: File.rm(run.log)
    verdict = if run.status == 0 and not survived?, do: "the canary died", else: Run.verdict(run)

    IO.puts(
      pad("#{guard}", 11) <>
        pad("#{job.shape}", 10) <>
        pad("#{Cell.rate(job.bytes_per_s)}", 10) <>
        pad(verdict, 28) <>
        "canary #{Table.ms(facts[:worst_us] || 0)}, " <>
        "#{(facts[:low_kills] || 0) + (facts[:low_caps] || 0)} workers and " <>
        "#{facts[:normal_deaths]} innocents killed, peak #{div(run.peak || 0, 1_048_576)} MiB"
    )
  end

  defp plan(options) do
    options = if options[:short], do: Keyword.merge(@short, options), else: options
    options = Keyword.merge(@default, options)

    with {:ok, guards} <- guards(options[:guards]),
         {:ok, shapes} <- Arguments.shapes(options[:shapes]),
         {:ok, rates} <- rates(options[:rates]),
         :ok <- positive(options, [:workers, :runs, :limit]),
         :ok <- room(options[:ballast], options[:limit]) do
      {:ok,
       %Plan{
         guards: guards,
         shapes: shapes,
         workers: options[:workers],
         rates: rates,
         runs: options[:runs],
         limit_bytes: options[:limit] * 1_048_576,
         ballast_bytes: options[:ballast] * 1_048_576,
         keep_logs?: options[:keep_logs] || false
       }}
    end
  end

  defp guards(nil), do: {:ok, Guards.default()}
  defp guards(text), do: Arguments.names("guard", text, Guards.names())

  defp rates(text) do
    rates = text |> String.split(",", trim: true) |> Enum.map(&Arguments.rate/1)

    case Enum.find(rates, &match?({:error, _}, &1)) do
      nil when rates == [] -> {:error, "expected rates like 5,100,unlimited"}
      # `:unlimited` sorts after all numbers.
      nil -> {:ok, rates |> Enum.map(&elem(&1, 1)) |> Enum.uniq() |> Enum.sort(:desc)}
      error -> error
    end
  end

  defp positive(options, names) do
    case Enum.find(names, &(options[&1] < 1)) do
      nil -> :ok
      name -> {:error, "expected --#{name} to be at least 1, got: #{options[name]}"}
    end
  end

  defp room(ballast, limit) when ballast >= 0 and ballast < limit, do: :ok
  defp room(ballast, _), do: {:error, "expected --ballast to be below the limit, got: #{ballast}"}

  defp usage do
    guards = Enum.map_join(Guards.names(), "\n", &"  #{pad("#{&1}", 12)}#{Guards.title(&1)}")
    shapes = Enum.map_join(Arena.Shape.names(), ", ", &to_string/1)
    @usage <> guards <> "\n\nshapes:\n  " <> shapes <> "\n"
  end

  defp pad(text, width), do: String.pad_trailing(text, width)

  @spec stop(0..2, String.t()) :: no_return()
  defp stop(status, words) do
    IO.puts(words)
    System.halt(status)
  end
end
