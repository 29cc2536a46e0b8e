defmodule Demo do
  @moduledoc false
  # One node, twice under the same limit, without OOM and with OOM: a thousand connections, some
  # leaking, a loaded cache, and a protected service. Started by script/demo.

  alias Demo.{Chart, Limit, Run, Screen}
  alias Demo.Node.Connection

  @usage """
  usage: script/demo [--svg PATH] [--runs N] [--guarded-only]

    --svg PATH      where to draw both runs (default: tmp/demo.svg)
    --runs N        how often to run the guarded part (default: 1)
    --guarded-only  leave out the unguarded run, and the drawing

  While it runs: kills of connections in all, healthy connections that were lost, connections that
  are down and held back until there is room.
  """

  @switches [
    svg: :string,
    runs: :integer,
    guarded_only: :boolean,
    help: :boolean,
    # from script/demo
    limit_kind: :string,
    limit_path: :string,
    limit_bytes: :integer,
    live: :boolean
  ]

  @spec main([String.t()]) :: no_return()
  def main(arguments) do
    case OptionParser.parse(arguments, strict: @switches) do
      {options, [], []} -> if options[:help], do: stop(0, @usage), else: System.halt(run(options))
      _ -> stop(2, @usage)
    end
  end

  defp run(options) do
    limit = Limit.new(options[:limit_kind], options[:limit_path], options[:limit_bytes])
    style = if options[:live], do: :live, else: :plain
    runs = max(options[:runs] || 1, 1)
    IO.puts("limit: #{Limit.describe(limit)}")

    if options[:guarded_only],
      do: many(limit, style, runs),
      else: both(limit, style, runs, options[:svg] || "tmp/demo.svg")
  end

  defp both(limit, style, runs, svg) do
    plain = node_run(limit, style, "unguarded", 1)
    guards = Enum.map(1..runs, &node_run(limit, style, "guarded", &1))
    guard = Enum.find(guards, hd(guards), &(guard_failure(&1) != nil))
    {plain_ok?, plain_words} = plain_verdict(plain, limit)
    {guard_ok?, guard_words} = guard_verdict(guard)

    draw(svg, Chart.svg(plain, guard, limit.bytes, plain_words, short(guard, guard_words)))
    IO.puts("drawn: #{svg}")
    IO.puts("limit: #{Limit.describe(limit)}")
    IO.puts(plain_words)
    IO.puts(guard_words)
    if plain_ok? and guard_ok?, do: 0, else: 1
  end

  defp many(limit, style, runs) do
    survived =
      Enum.count(1..runs, fn n ->
        {ok?, words} = limit |> node_run(style, "guarded", n) |> guard_verdict()
        IO.puts("#{n}/#{runs} #{words}")
        ok?
      end)

    IO.puts("survived #{survived} of #{runs}")
    if survived == runs, do: 0, else: 1
  end

  defp node_run(limit, style, mode, n) do
    command = [
      System.find_executable("elixir") || raise("elixir was not found in PATH"),
      # An interrupt ends the VM, and opens no menu.
      "--erl",
      "+Bd"
    ]

    paths = Enum.flat_map(:code.get_path(), &own_path/1)
    command = command ++ paths ++ ["-e", "Demo.Node.main(System.argv())", "--"]
    log = "tmp/demo-#{mode}-#{n}.log"
    run = Run.run(limit, mode, command, log, Screen.watcher(style, limit.bytes, mode))
    Screen.done(style)
    run
  end

  # The demo's code and the library; every VM has the rest.
  defp own_path(path) do
    path = to_string(path)
    if String.contains?(path, "/_build/"), do: ["-pa", path], else: []
  end

  # Success

  defp plain_verdict(%Run{status: 137, kernel_killed: killed} = run, %{kind: kind})
       when killed != false and kind != :rlimit,
       do: {true, "unguarded: killed by SIGKILL #{since(run)}"}

  # This limit kills nobody: the allocation fails, and the VM gives up.
  defp plain_verdict(%Run{status: status, no_memory: true} = run, %{kind: :rlimit})
       when status != 0,
       do: {true, "unguarded: ended by a failed allocation #{since(run)} (status #{status})"}

  defp plain_verdict(%Run{status: 0} = run, _limit),
    do: {false, "unguarded: FAILED: it survived #{seconds(run)} s"}

  defp plain_verdict(%Run{status: status, seconds: nil} = run, _limit),
    do: {false, "unguarded: FAILED: status #{status} before it was ready#{problems(run)}"}

  defp plain_verdict(%Run{status: status} = run, _limit),
    do: {false, "unguarded: FAILED: status #{status} after #{seconds(run)} s#{problems(run)}"}

  defp guard_verdict(run) do
    case guard_failure(run) do
      nil ->
        {true,
         "guarded: survived; lost #{run.result["lost"]} of #{healthy()} healthy connections; killed " <>
           "#{run.result["killed"]} of the #{leaking()} that leak, #{run.result["kills"]} times in all, " <>
           "and all came back; cache and protected state intact; worst answer of the protected " <>
           "service #{worst_ms(run)} ms"}

      why ->
        {false, "guarded: FAILED: #{why}#{problems(run)}"}
    end
  end

  defp guard_failure(%Run{status: 137} = run), do: "killed by SIGKILL after #{seconds(run)} s"

  defp guard_failure(%Run{result: nil, status: status}), do: "ended with status #{status}"

  defp guard_failure(%Run{result: result, status: status} = run) do
    cond do
      result["protected"] != "intact" -> "protected state: #{result["protected"]}"
      result["cache"] != "intact" -> "the cache: #{result["cache"]}#{lost(result)}"
      result["other"] != "0" -> "#{result["other"]} workers ended for other reasons"
      result["down"] != "0" -> "#{down(result)} did not come back#{lost(result)}"
      result["kills"] == "0" -> "nobody was killed: the limit was never near"
      run.problems != [] -> "it was late"
      status != 0 -> "ended with status #{status}"
      true -> nil
    end
  end

  # The picture is not as wide as a terminal.
  defp short(run, words) do
    if guard_failure(run),
      do: words,
      else:
        "guarded: survived; lost #{run.result["lost"]} of #{healthy()} healthy connections, killed " <>
          "#{run.result["killed"]} of the #{leaking()} that leak; protected service: worst answer " <>
          "#{worst_ms(run)} ms"
  end

  # Without a leak, but with the same priority.
  defp healthy, do: Connection.count() - Connection.leaking()
  defp leaking, do: Connection.leaking()

  defp lost(result), do: ", and #{result["lost"]} healthy connections were killed"

  defp down(result),
    do: "#{result["down"]} connections (#{result["down_leaking"]} of them leak)"

  defp since(%Run{load: nil} = run), do: "after #{seconds(run)} s, before the leaks began"
  defp since(run), do: "#{Float.round(run.seconds - run.load, 1)} s after the leaks began"

  defp worst_ms(run),
    do: run.result["worst_us"] |> String.to_integer() |> Kernel./(1_000) |> Float.round(1)

  defp problems(%Run{problems: []}), do: ""

  defp problems(%Run{problems: problems}),
    do: " " <> inspect(problems |> Enum.reverse() |> Enum.take(5))

  defp seconds(%Run{seconds: nil}), do: "?"
  defp seconds(%Run{seconds: seconds}), do: Float.round(seconds, 1)

  defp draw(path, svg) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, svg)
  end

  @spec stop(0..2, String.t()) :: no_return()
  defp stop(status, words) do
    IO.puts(words)
    System.halt(status)
  end
end
