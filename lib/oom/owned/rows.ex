defmodule OOM.Owned.Rows do
  @moduledoc false
  # The off-heap binaries in the rows of an ETS table, which the table's own size leaves out: 6,400 rows with a
  # binary of 16 KiB each read as 700 KB for 100 MB. The VM has no figure, so some rows are copied
  # (OOM.BinaryShares), and the others count like these. The rows of a private table cannot be read.

  alias OOM.BinaryShares

  # Rows of a sample, and their bytes at most.
  @rows 64
  @copied_bytes 1_048_576
  # A table is sampled again after a change of its size by a quarter.
  @again 4

  @typedoc "The rows of a table at the last sample, and the bytes of their binaries."
  @type sample :: {size :: pos_integer(), bytes :: non_neg_integer()}

  @doc "Tells whether a table of this size, in rows, has to be sampled."
  @spec due?(non_neg_integer(), sample() | nil) :: boolean()
  def due?(size, nil), do: size > 0
  def due?(size, {then, _}), do: abs(size - then) * @again > then

  @doc "Returns the bytes of the binaries in all rows, by the last sample."
  @spec bytes(non_neg_integer(), sample() | nil) :: non_neg_integer()
  def bytes(_size, nil), do: 0
  def bytes(size, {then, bytes}), do: div(bytes * size, then)

  @doc """
  Samples a table with `size` rows in `table_bytes`; `nil` where the table has gone, or its rows are too large
  to be copied.
  """
  @spec sample(:ets.table(), pos_integer(), non_neg_integer()) :: sample() | nil
  def sample(table, size, table_bytes) do
    case div(@copied_bytes * size, max(table_bytes, 1)) do
      0 ->
        nil

      fit ->
        rows = min(@rows, fit)
        {size, div(BinaryShares.bytes(fn -> copy(table, rows) end) * size, min(rows, size))}
    end
  end

  defp copy(table, rows) do
    :ets.select(table, [{:"$1", [], [:"$1"]}], rows)
  rescue
    # The table has gone, or is private by now.
    ArgumentError -> []
  end
end
