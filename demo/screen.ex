defmodule Demo.Screen do
  @moduledoc false
  # Progress: on a terminal one line, redrawn; elsewhere a plain line each second.

  @live_ms 100
  @plain_ms 1_000
  @bar 14
  @mib 1_048_576

  # normal, elevated, high, critical: green to red
  @colours %{"normal" => 32, "elevated" => 33, "high" => 35, "critical" => 31}

  @doc "Returns the callback for `Demo.Run.run/5`: prints when due."
  @spec watcher(:live | :plain, pos_integer(), String.t()) :: (Demo.Run.t() -> :ok)
  def watcher(style, limit_bytes, title) do
    every = if style == :live, do: @live_ms, else: @plain_ms
    Process.put(__MODULE__, now())

    fn run ->
      if now() >= Process.get(__MODULE__) and run.usage != [] do
        Process.put(__MODULE__, now() + every)
        show(style, title, run, limit_bytes)
      end

      :ok
    end
  end

  @doc "Ends the redrawn line."
  @spec done(:live | :plain) :: :ok
  def done(:live), do: IO.write("\r\e[K")
  def done(:plain), do: :ok

  defp show(:live, title, run, limit), do: IO.write(["\r\e[K", line(title, run, limit, true)])
  defp show(:plain, title, run, limit), do: IO.puts(line(title, run, limit, false))

  # 79 columns at most, so any terminal can redraw the line.
  defp line(title, %{usage: [{seconds, bytes} | _]} = run, limit, colour?) do
    said = said(run)
    level = said["level"]
    share = min(bytes / limit, 1.0)
    full = round(share * @bar)
    bar = [paint(String.duplicate("█", full), level, colour?), String.duplicate("·", @bar - full)]

    [
      pad(title, 9),
      [" ", seconds |> max(0.0) |> :erlang.float_to_binary(decimals: 1) |> String.pad_leading(5)],
      [" s ", bar, " "],
      ["#{div(bytes, @mib)}" |> String.pad_leading(3), "/#{div(limit, @mib)} MiB"],
      if(run.mode == "guarded", do: guarded(said, level, colour?), else: [])
    ]
  end

  defp guarded(%{"held" => held} = said, level, colour?) do
    [" ", paint(pad(level, 8), level, colour?), " kills ", said["kills"]] ++
      [" lost ", said["lost"], " held ", held]
  end

  defp guarded(_said, _level, _colour?), do: []

  defp said(%{statuses: [{_, values} | _]}), do: values
  defp said(_run), do: %{}

  defp paint(text, level, true) when is_map_key(@colours, level),
    do: ["\e[", "#{@colours[level]}", "m", text, "\e[0m"]

  defp paint(text, _level, _colour?), do: text

  defp pad(text, width), do: String.pad_trailing(text, width)

  defp now, do: System.monotonic_time(:millisecond)
end
