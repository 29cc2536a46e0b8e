defmodule Rivals.Chart do
  @moduledoc false
  # The table as a picture: a row for each guard, a column for each shape, greener for a faster
  # survived leak.

  alias Rivals.{Cell, Guards, Plan, Table}

  @width 960
  @left 264
  @right 20
  @top 104
  @row 46
  @gap 3

  @style """
  .card{fill:#fff;stroke:#d0d7de}.text{fill:#1f2328}.mute{fill:#59636e}
  .s0{fill:#f6d5d2}.s1{fill:#ffd8b5}.s2{fill:#fae9a0}.s3{fill:#e0efb0}.s4{fill:#b4f1c3}.s5{fill:#5fd07c}
  @media (prefers-color-scheme:dark){
  .card{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.mute{fill:#aab2bb}
  .s0{fill:#4d1417}.s1{fill:#5f2b0b}.s2{fill:#5a4209}.s3{fill:#414b12}.s4{fill:#1b4a2a}.s5{fill:#1f7a37}}
  """

  @spec svg([Cell.t()], Plan.t()) :: iodata()
  def svg(cells, plan) do
    cells = Map.new(cells, &{{&1.guard, &1.shape}, &1})
    height = @top + @row * length(plan.guards) + 16

    [
      ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@width} #{height}" ),
      ~s(width="#{@width}" height="#{height}" font-family="system-ui,-apple-system,Segoe UI,),
      ~s(Helvetica,Arial,sans-serif" font-size="13" role="img">\n),
      "<title>The highest rate of a leak survived, under each guard</title>\n",
      ["<style>", @style, "</style>\n"],
      ~s(<rect class="card" x=".5" y=".5" width="#{@width - 1}" height="#{height - 1}" rx="8"/>\n),
      heading(plan),
      for({shape, i} <- Enum.with_index(plan.shapes), do: column(shape, i, plan)),
      for({guard, j} <- Enum.with_index(plan.guards), do: row(guard, j, cells, plan)),
      "</svg>\n"
    ]
  end

  defp heading(plan) do
    words =
      "MB/s of #{plan.workers} workers that leak into #{div(plan.limit_bytes, 1_048_576)} MiB; " <>
        "below it, other workers killed, and the canary's worst answer"

    title = ~s(font-size="17" font-weight="600")

    [
      text(24, 34, "text", title, "The fastest leak survived, #{plan.runs} runs of #{plan.runs}"),
      text(24, 56, "mute", "", words)
    ]
  end

  defp column(shape, i, plan) do
    x = @left + (i + 0.5) * width(plan)
    text(n(x), @top - 12, "text", ~s(text-anchor="middle" font-weight="600"), "#{shape}")
  end

  defp row(guard, j, cells, plan) do
    y = @top + j * @row
    weight = if guard == :oom, do: ~s(font-weight="600"), else: ""

    [
      text(24, y + 27, "text", weight, Guards.title(guard)),
      for {shape, i} <- Enum.with_index(plan.shapes) do
        cell(cells[{guard, shape}], n(@left + i * width(plan)), y, plan)
      end
    ]
  end

  defp cell(cell, x, y, plan) do
    width = n(width(plan) - @gap)
    middle = n(x + width / 2)
    shade = shade(cell.survived, plan)

    rect =
      ~s(<rect class="s#{shade}" x="#{x}" y="#{y}" width="#{width}" height="#{@row - @gap}" rx="3"/>\n)

    [rect, words(cell, middle, y, plan)]
  end

  @middle ~s(text-anchor="middle")

  defp words(%{survived: nil} = cell, x, y, plan),
    do: text(x, y + 27, "mute", @middle, Cell.highest(cell, plan))

  defp words(cell, x, y, plan) do
    below = "#{Cell.innocents(cell)} killed, #{Table.ms(Cell.canary_us(cell))}"

    [
      text(
        x,
        y + 19,
        "text",
        @middle <> ~s( font-weight="600" font-size="14"),
        Cell.highest(cell, plan)
      ),
      text(x, y + 35, "text", @middle <> ~s( font-size="11"), below)
    ]
  end

  # 0 for none, 5 for the highest rate tried.
  defp shade(nil, _plan), do: 0

  defp shade(rate, plan) do
    below = length(plan.rates) - 1
    index = Enum.find_index(plan.rates, &(&1 == rate))
    5 - round(4 * index / max(below, 1))
  end

  defp width(plan), do: (@width - @left - @right) / length(plan.shapes)

  defp text(x, y, class, attributes, words),
    do: ~s(<text class="#{class}" x="#{x}" y="#{y}" #{attributes}>#{escape(words)}</text>\n)

  defp escape(words), do: words |> String.replace("&", "&amp;") |> String.replace("<", "&lt;")

  # One decimal is a tenth of a pixel.
  defp n(number), do: Float.round(number * 1.0, 1)
end
