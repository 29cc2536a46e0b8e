defmodule Bench.Table do
  @moduledoc false
  # Figures side by side: the median of the repetitions, with the least and the most.

  @name_width 34
  @cell_width 27

  @doc "Prints the head with the machine's facts; figures of two machines cannot be compared."
  @spec head(String.t()) :: :ok
  def head(what) do
    IO.puts(
      "#{what}; OTP #{System.otp_release()}, Elixir #{System.version()}, " <>
        "#{System.schedulers_online()} schedulers; median (least - most)\n"
    )
  end

  @spec row(String.t(), [String.t()]) :: :ok
  def row(name, cells) do
    IO.puts([String.pad_trailing(name, @name_width) | Enum.map(cells, &cell/1)])
  end

  @doc "Returns the median of repetitions, with the least and the most."
  @spec spread([number()]) :: String.t()
  def spread([]), do: "-"

  def spread(values) do
    {least, most} = Enum.min_max(values)
    "#{short(median(values))} (#{short(least)} - #{short(most)})"
  end

  @doc "Returns the ratio turn by turn, so a slow turn is slow on both sides."
  @spec ratio([number()], [number()]) :: String.t()
  def ratio(ours, theirs) do
    case for {a, b} <- Enum.zip(ours, theirs), b > 0, do: a / b do
      [] -> "-"
      ratios -> spread(ratios) <> " x"
    end
  end

  @spec median([number()]) :: number()
  def median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  @doc "Returns the option, or the default of the long or short form."
  @spec option(keyword(), atom(), term(), term()) :: term()
  def option(options, name, long, short),
    do: Keyword.get(options, name, if(options[:short], do: short, else: long))

  @doc "Returns the numbers of an option such as `1000,100000`, or of the default."
  @spec numbers(keyword(), atom(), String.t(), String.t()) :: [integer()]
  def numbers(options, name, long, short) do
    options
    |> option(name, long, short)
    |> String.split(",", trim: true)
    |> Enum.map(&String.to_integer/1)
  end

  defp cell(text), do: [" ", String.pad_leading(text, @cell_width - 1)]

  defp short(n) when is_integer(n), do: "#{n}"
  defp short(n) when abs(n) >= 100, do: "#{round(n)}"
  defp short(n) when abs(n) >= 10, do: "#{Float.round(n, 1)}"
  defp short(n), do: "#{Float.round(n / 1, 2)}"
end
