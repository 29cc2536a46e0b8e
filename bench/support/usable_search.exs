defmodule Usable.Search do
  @moduledoc false
  # The largest share that holds in all runs. First by halving, a short run at each share, as though
  # a share that holds implied all smaller shares; then from there down, until all runs of a share
  # are well.

  @doc """
  Returns the largest share well in all runs; `nil` where there is none. `short?.(share)` tells
  whether a short run at a share is well, and `all?.(share)` whether all its runs are.
  """
  @spec largest([share], (share -> boolean()), (share -> boolean())) :: share | nil
        when share: pos_integer()
  def largest(shares, short?, all?) do
    shares = Enum.sort(shares)
    well = halve(shares, 0, length(shares), short?)
    shares |> Enum.take(well) |> Enum.reverse() |> Enum.find(all?)
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
