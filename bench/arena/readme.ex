defmodule Arena.Readme do
  @moduledoc false
  # Puts the results of a script into a document, between the markers with the script's name.

  @spec put(Path.t(), String.t(), String.t()) :: :ok
  def put(path, name, markdown) do
    {first, last} = {"<!-- #{name}:begin -->", "<!-- #{name}:end -->"}
    [before, rest] = path |> File.read!() |> String.split(first)
    [_old, rest] = String.split(rest, last)
    File.write!(path, [before, first, "\n\n", String.trim(markdown), "\n\n", last, rest])
  end

  @doc "Returns a Markdown table of rows of cells; the first row is the head."
  @spec table([[String.t()]]) :: String.t()
  def table([head | rows]) do
    widths =
      Enum.zip_with([head | rows], fn column ->
        column |> Enum.map(&String.length/1) |> Enum.max()
      end)

    rule = Enum.map(widths, &String.duplicate("-", &1))
    Enum.map_join([head, rule | rows], "\n", &row(&1, widths))
  end

  defp row(cells, widths),
    do:
      "| " <> (cells |> Enum.zip_with(widths, &String.pad_trailing/2) |> Enum.join(" | ")) <> " |"
end
