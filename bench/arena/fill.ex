defmodule Arena.Fill do
  @moduledoc false
  # Before anything grows, the innocents take more memory, in equal parts, until the node's
  # working set reaches the job's target. In pieces with a pause: `script/bench usable` shows how
  # fast a node may load, and here only the starting point of the leak matters.

  alias Arena.{Innocent, Patience, Used}

  # Of each innocent, at once: 1 GB/s at most.
  @most_bytes 1_048_576
  @pause_ms 50
  # A throttled fill may take this long; a run not loaded by then does not count.
  @deadline_ms 30_000
  @answer_ms 5_000
  # Memory freed on the way is given back, and the guard is calm again.
  @settle_ms 1_500

  @doc "Returns whether the target was reached, and the working set reached."
  @spec run(Arena.Job.t(), pos_integer()) :: {boolean(), non_neg_integer()}
  def run(job, innocents) do
    cgroup = Used.cgroup()
    target = div(job.limit_bytes * job.held_percent, 100)
    full? = fill(cgroup, target, innocents, now() + Patience.times(@deadline_ms))
    if job.held_percent > 0, do: Process.sleep(@settle_ms)
    {full?, Used.bytes(cgroup)}
  end

  defp fill(cgroup, target, innocents, deadline) do
    case share_bytes(target - Used.bytes(cgroup), innocents) do
      0 ->
        true

      bytes ->
        answers = for id <- 1..innocents, do: Innocent.hold(id, bytes, @answer_ms)
        Process.sleep(@pause_ms)
        # The living innocents take the part of a dead innocent; with half of them dead it would
        # be another node.
        dead? = 2 * Enum.count(answers, &(&1 == :dead)) > innocents
        not dead? and now() < deadline and fill(cgroup, target, innocents, deadline)
    end
  end

  @doc "Returns the bytes each takes next, in whole pieces; 0 where half a piece more would be too much."
  @spec share_bytes(integer(), pos_integer()) :: non_neg_integer()
  def share_bytes(missing, innocents) do
    piece = Innocent.piece_bytes()
    pieces = div(missing + div(innocents * piece, 2), innocents * piece)
    pieces |> max(0) |> Kernel.*(piece) |> min(@most_bytes)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
