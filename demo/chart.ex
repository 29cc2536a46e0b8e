defmodule Demo.Chart do
  @moduledoc false
  # Both runs in one picture: memory over time, the limit, the kernel's kill, and below it the
  # guard's level and its kills.

  @width 960
  @height 520
  @left 70
  @right 24
  @top 84
  @plot_height 320
  @mib 1_048_576

  @levels ~w(normal elevated high critical)

  @style """
  .card{fill:#fff;stroke:#d0d7de}.text{fill:#1f2328}.mute{fill:#59636e}.grid{stroke:#d0d7de}
  .limit{stroke:#cf222e}.limit-text{fill:#cf222e}.plain{stroke:#bc4c00}.plain-text{fill:#bc4c00}
  .guard{stroke:#0969da}.guard-area{fill:#0969da;fill-opacity:.10}.guard-text{fill:#0969da}
  .normal{fill:#2da44e;fill-opacity:.35}.elevated{fill:#d4a72c;fill-opacity:.55}
  .high{fill:#e16f24;fill-opacity:.8}.critical{fill:#cf222e}.kill{fill:#0969da}
  @media (prefers-color-scheme:dark){
  .card{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.mute{fill:#9198a1}.grid{stroke:#3d444d}
  .limit{stroke:#f85149}.limit-text{fill:#f85149}.plain{stroke:#f0883e}.plain-text{fill:#f0883e}
  .guard{stroke:#4493f8}.guard-area{fill:#4493f8}.guard-text{fill:#4493f8}.kill{fill:#4493f8}}
  """

  @doc "Returns the SVG of an unguarded and a guarded run; with a text for each."
  @spec svg(Demo.Run.t(), Demo.Run.t(), pos_integer(), String.t(), String.t()) :: iodata()
  def svg(plain, guard, limit_bytes, plain_words, guard_words) do
    plain = until_death(plain)
    seconds = [plain, guard] |> Enum.map(&(&1.seconds || 0.0)) |> Enum.max() |> max(1.0)
    scale = scale(seconds, limit_bytes)

    [
      ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@width} #{@height}" ),
      ~s(width="#{@width}" height="#{@height}" font-family="system-ui,-apple-system,Segoe UI,),
      ~s(Helvetica,Arial,sans-serif" font-size="13" role="img">\n),
      ~s(<title>Memory of one workload under a #{div(limit_bytes, @mib)} MiB limit</title>\n),
      ["<style>", @style, "</style>\n"],
      ~s(<rect class="card" x=".5" y=".5" width="#{@width - 1}" height="#{@height - 1}" rx="8"/>\n),
      heading(limit_bytes, plain_words, guard_words),
      axes(scale, seconds, limit_bytes),
      mark(scale, guard.load, "the leaks begin", @plot_height - 12),
      mark(scale, guard.load_over, "the clients leave", 50),
      area(scale, guard),
      curve(scale, plain, "plain"),
      curve(scale, guard, "guard"),
      limit(scale, limit_bytes),
      end_mark(scale, plain),
      levels(scale, guard),
      kills(scale, guard),
      "</svg>\n"
    ]
  end

  # Memory the kernel takes back while clearing away a dead VM is no news.
  defp until_death(%{status: 0} = run), do: run

  defp until_death(run) do
    peak = run.usage |> Enum.map(&elem(&1, 1)) |> Enum.max(fn -> 0 end)
    falling = run.usage |> Enum.reverse() |> Enum.drop_while(fn {_, b} -> b < peak * 0.98 end)
    %{run | usage: Enum.reverse(falling)}
  end

  defp scale(seconds, limit_bytes) do
    width = @width - @left - @right
    top_bytes = limit_bytes * 1.12

    %{
      x: fn s -> n(@left + width * min(max(s, 0), seconds) / seconds) end,
      y: fn bytes -> n(@top + @plot_height * (1 - min(bytes / top_bytes, 1))) end
    }
  end

  defp heading(limit_bytes, plain_words, guard_words) do
    [
      text(
        @left,
        30,
        "text",
        ~s(font-size="17" font-weight="600"),
        "50 of 1,000 connections leak, beside a cache, into #{div(limit_bytes, @mib)} MiB"
      ),
      legend(@left, 52, "plain", plain_words),
      legend(@left, 71, "guard", guard_words)
    ]
  end

  defp legend(x, y, class, words) do
    [
      ~s(<line class="#{class}" x1="#{x}" x2="#{x + 22}" y1="#{y - 4}" y2="#{y - 4}" stroke-width="3"/>\n),
      text(x + 30, y, "#{class}-text", "", words)
    ]
  end

  defp axes(scale, seconds, limit_bytes) do
    bottom = @top + @plot_height

    rows =
      for mib <- 0..div(limit_bytes, @mib)//128, mib * @mib < limit_bytes do
        y = scale.y.(mib * @mib)

        [
          ~s(<line class="grid" x1="#{@left}" x2="#{@width - @right}" y1="#{y}" y2="#{y}"/>\n),
          text(@left - 8, n(y + 4), "mute", ~s(text-anchor="end"), "#{mib}")
        ]
      end

    columns =
      for s <- 0..trunc(seconds)//step(seconds) do
        x = scale.x.(s)

        [
          ~s(<line class="grid" x1="#{x}" x2="#{x}" y1="#{bottom}" y2="#{bottom + 5}"/>\n),
          text(x, bottom + 20, "mute", ~s(text-anchor="middle"), "#{s}")
        ]
      end

    [
      rows,
      columns,
      text(@width - @right, bottom + 38, "mute", ~s(text-anchor="end"), "seconds"),
      text(
        18,
        @top + @plot_height / 2,
        "mute",
        ~s[text-anchor="middle" transform="rotate(-90 18 #{@top + @plot_height / 2})"],
        "memory charged to the VM, MiB"
      )
    ]
  end

  defp step(seconds), do: Enum.find([1, 2, 5, 10, 20, 50], 100, &(seconds / &1 <= 14))

  defp limit(scale, bytes) do
    y = scale.y.(bytes)

    [
      ~s(<line class="limit" x1="#{@left}" x2="#{@width - @right}" y1="#{y}" y2="#{y}" ),
      ~s(stroke-width="1.5" stroke-dasharray="6 4"/>\n),
      text(
        @width - @right,
        n(y - 6),
        "limit-text",
        ~s(text-anchor="end"),
        "limit #{div(bytes, @mib)} MiB"
      )
    ]
  end

  defp mark(_scale, nil, _words, _below), do: []

  defp mark(scale, seconds, words, below) do
    x = scale.x.(seconds)

    [
      ~s(<line class="grid" x1="#{x}" x2="#{x}" y1="#{@top + 36}" y2="#{@top + @plot_height}" ),
      ~s(stroke-dasharray="2 3"/>\n),
      text(n(x + 6), @top + below, "mute", "", words)
    ]
  end

  defp curve(_scale, %{usage: []}, _class), do: []

  defp curve(scale, run, class) do
    ~s(<polyline class="#{class}" fill="none" stroke-width="1.8" stroke-linejoin="round" ) <>
      ~s(points="#{points(scale, run)}"/>\n)
  end

  defp area(_scale, %{usage: []}), do: []

  defp area(scale, %{usage: [{first, _} | _] = usage} = run) do
    {last, _} = List.last(usage)
    bottom = @top + @plot_height

    ~s(<polygon class="guard-area" points="#{scale.x.(first)},#{bottom} ) <>
      ~s(#{points(scale, run)} #{scale.x.(last)},#{bottom}"/>\n)
  end

  defp points(scale, run),
    do: Enum.map_join(thin(run.usage), " ", fn {s, b} -> "#{scale.x.(s)},#{scale.y.(b)}" end)

  # Of the samples sharing a pixel the highest: a peak must not be lost.
  defp thin(usage) do
    per_point = max(div(length(usage), @width), 1)
    usage |> Enum.chunk_every(per_point) |> Enum.map(&Enum.max_by(&1, fn {_, b} -> b end))
  end

  defp end_mark(_scale, %{usage: []}), do: []
  defp end_mark(_scale, %{status: 0}), do: []

  defp end_mark(scale, run) do
    {seconds, bytes} = List.last(run.usage)
    {x, y} = {scale.x.(seconds), scale.y.(bytes)}
    words = if run.status == 137, do: "SIGKILL", else: "dies"

    [
      ~s(<path class="limit" stroke-width="3.5" stroke-linecap="round" d="M#{n(x - 7)} #{n(y - 7)}),
      ~s(L#{n(x + 7)} #{n(y + 7)}M#{n(x - 7)} #{n(y + 7)}L#{n(x + 7)} #{n(y - 7)}"/>\n),
      text(n(x + 14), n(y + 22), "limit-text", ~s(font-weight="600"), words)
    ]
  end

  # A strip below the time axis.
  defp levels(scale, run) do
    y = @top + @plot_height + 52
    starts = [{0.0, "normal"} | run.levels]
    ends = Enum.map(run.levels, &elem(&1, 0)) ++ [run.seconds]

    bands =
      for {{from, level}, to} <- Enum.zip(starts, ends), to > from do
        {x1, x2} = {scale.x.(from), scale.x.(to)}

        ~s(<rect class="#{level}" x="#{x1}" y="#{y}" width="#{n(max(x2 - x1, 0.8))}" height="12"/>\n)
      end

    key =
      for {level, i} <- Enum.with_index(@levels) do
        x = @left + 90 * i

        [
          ~s(<rect class="#{level}" x="#{x}" y="#{y + 32}" width="12" height="12"/>\n),
          text(x + 18, y + 42, "mute", "", level)
        ]
      end

    [text(@left - 8, y + 10, "mute", ~s(text-anchor="end"), "level"), bands, key]
  end

  # A bar for each status with new kills, as high as their number.
  defp kills(scale, run) do
    y = @top + @plot_height + 82
    counts = Enum.map(run.statuses, fn {s, values} -> {s, String.to_integer(values["kills"])} end)

    bars =
      for [{_, before}, {s, count}] <- Enum.chunk_every([{0.0, 0} | counts], 2, 1, :discard),
          count > before do
        height = n(min(3 + (count - before) / 4, 16))

        ~s(<rect class="kill" x="#{scale.x.(s)}" y="#{n(y - height)}" width="2" height="#{height}"/>\n)
      end

    [text(@left - 8, y, "mute", ~s(text-anchor="end"), "kills"), bars]
  end

  defp text(x, y, class, attributes, words),
    do: ~s(<text class="#{class}" x="#{x}" y="#{y}" #{attributes}>#{escape(words)}</text>\n)

  defp escape(words),
    do: words |> String.replace("&", "&amp;") |> String.replace("<", "&lt;")

  # One decimal is a tenth of a pixel.
  defp n(number), do: Float.round(number * 1.0, 1)
end
