defmodule Arena.Arguments do
  @moduledoc false
  # Parsers of command line arguments, for all scripts running the arena's VMs.

  alias Arena.Shape

  @type result(value) :: {:ok, value} | {:error, String.t()}

  @spec shapes(String.t()) :: result([atom()])
  def shapes("all"), do: {:ok, Shape.names()}
  def shapes("reports"), do: {:ok, Shape.reports()}
  def shapes("slices"), do: {:ok, Shape.slices()}

  def shapes(text),
    do: names("shape", text, Shape.names() ++ Shape.reports() ++ Shape.slices())

  @doc "Returns the known names among a comma-separated list."
  @spec names(String.t(), String.t(), [atom()]) :: result([atom()])
  def names(what, text, all) do
    names = Map.new(all, &{to_string(&1), &1})
    wanted = String.split(text, ",", trim: true)

    case Enum.reject(wanted, &is_map_key(names, &1)) do
      [] when wanted != [] -> {:ok, Enum.map(wanted, &names[&1])}
      [unknown | _] -> {:error, "there is no #{what} #{unknown}"}
      [] -> {:error, "expected a #{what}"}
    end
  end

  @spec counts(String.t(), String.t()) :: result([pos_integer()])
  def counts(option, text) do
    counts = text |> String.split(",", trim: true) |> Enum.map(&Integer.parse/1)

    if counts != [] and Enum.all?(counts, &match?({n, ""} when n > 0, &1)),
      do: {:ok, Enum.map(counts, &elem(&1, 0))},
      else: {:error, "expected #{option} to be numbers like 1,20, got: #{text}"}
  end

  @doc "Held percentages of the limit; a full limit would leave no room for a leak."
  @spec percents(String.t(), String.t()) :: result([0..99])
  def percents(option, text) do
    percents = text |> String.split(",", trim: true) |> Enum.map(&Integer.parse/1)

    if percents != [] and Enum.all?(percents, &match?({n, ""} when n in 0..99, &1)),
      do: {:ok, Enum.map(percents, &elem(&1, 0))},
      else: {:error, "expected #{option} to be percents below 100 like 0,85, got: #{text}"}
  end

  @doc "A number that may be missing."
  @spec at_least(String.t(), integer() | nil, integer()) :: result(integer() | nil)
  def at_least(_option, nil, _least), do: {:ok, nil}
  def at_least(_option, n, least) when n >= least, do: {:ok, n}

  def at_least(option, n, least),
    do: {:error, "expected #{option} to be at least #{least}, got: #{n}"}

  @doc "How many runs at a time. Growth at full speed needs the machine alone."
  @spec beside(integer() | nil, String.t() | nil) :: result(pos_integer())
  def beside(nil, _rate), do: {:ok, 1}

  def beside(n, rate) when n > 1 and rate in [nil, "unlimited"],
    do:
      {:error, "expected --beside #{n} to come with --rate: a run at full speed needs both CPUs"}

  def beside(n, _rate), do: at_least("--beside", n, 1)

  @doc "A keyword list without its brackets."
  @spec config(String.t(), String.t()) :: result(keyword())
  def config(option, text) do
    with {:ok, quoted} <- Code.string_to_quoted("[" <> text <> "]"),
         true <- Keyword.keyword?(quoted) and Macro.quoted_literal?(quoted) do
      {:ok, quoted |> Code.eval_quoted() |> elem(0)}
    else
      _ -> {:error, "expected #{option} to be options like kill: false, got: #{text}"}
    end
  end

  @doc "The priority of a process, with the VM's schedulers."
  @spec priority(String.t(), String.t()) :: result(:normal | :high)
  def priority(_option, "normal"), do: {:ok, :normal}
  def priority(_option, "high"), do: {:ok, :high}

  def priority(option, other),
    do: {:error, "expected #{option} to be normal or high, got: #{other}"}

  @spec rate(String.t()) :: result(pos_integer() | :unlimited)
  def rate("unlimited"), do: {:ok, :unlimited}

  def rate(text) do
    case Integer.parse(text) do
      {mb, ""} when mb > 0 -> {:ok, mb * 1_000_000}
      _ -> {:error, "expected a rate to be MB/s or unlimited, got: #{text}"}
    end
  end
end
