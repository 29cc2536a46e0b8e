defmodule OOM.Tree.Settled do
  @moduledoc false
  # The processes placed by earlier walks, and skipped by the next walk. The set is native memory: as lists of
  # 100,000 processes the set took 10 to 18 MB of heap for 50 ms in each walk, the watcher read the heap as growth, and
  # growth hurries the next walk.
  #
  # Without the native library a walk skips nobody. Nothing is guarded then, and walks are rare.

  alias OOM.Native

  @opaque t :: Native.settled() | nil

  @spec new() :: t()
  def new, do: if(Native.loaded?(), do: Native.settled_new())

  @doc "Begins a walk over all processes: returns those not settled."
  @spec begin(t(), [pid()]) :: [pid()]
  def begin(nil, processes), do: processes
  def begin(settled, processes), do: Native.settled_begin(settled, processes)

  @doc """
  Ends the walk and settles all processes of the walk, except processes `outside` of all supervisors. A failed walk
  settles nobody.
  """
  @spec finish(t(), [pid()]) :: :ok
  def finish(nil, _outside), do: :ok
  def finish(settled, outside), do: Native.settled_end(settled, outside)
end
