defmodule Usable.Search do
  @moduledoc false
  # The largest share that holds in all runs. First by halving, a short run at each share, as though
  # a share that holds implied all smaller shares; then from there down, until all runs of a share
  # are well.

  @doc """
  Returns the largest share well in all runs; `nil` where there is none. `try.(share, n)` tells
  whether the n-th run at a share is well, and `try.(share, :short)` whether a short run is.
  """
  @spec largest(
          [pos_integer()],
          pos_integer(),
          (pos_integer(), pos_integer() | :short -> boolean())
        ) :: pos_integer() | nil
  def largest(shares, runs, try) do
    shares = Enum.sort(shares)
    well = halve(shares, 0, length(shares), &try.(&1, :short))

    shares
    |> Enum.take(well)
    |> Enum.reverse()
    |> Enum.find(fn share -> Enum.all?(1..runs, &try.(share, &1)) end)
  end

  # How many of the shares are well: at least `low` of them, at most `high`.
  defp halve(_shares, low, high, _well?) when low == high, do: low

  defp halve(shares, low, high, well?) do
    middle = div(low + high, 2)

    if well?.(Enum.at(shares, middle)),
      do: halve(shares, middle + 1, high, well?),
      else: halve(shares, low, middle, well?)
  end
end
