defmodule OOM.Slices do
  @moduledoc false
  # Who of those that stand still may run next, and for how long: pure, for OOM.Throttle.
  #
  # What a run takes is measured for each worker: by how much its figure has grown, and its part of what
  # memory has grown by besides. A run of 1 ms may take much more than that of memory, because a worker
  # stops at the end of its turn, and reductions do not count bytes: 17 MB were seen. So of those that
  # may grow only so many run that what they took the last time fits into a part of what is left above
  # the floor; the others wait for the next turn.

  alias OOM.Limits
  alias OOM.Limits.Turn

  @typedoc "What a run of so many ms took, by worker."
  @type costs :: %{pid() => {bytes :: non_neg_integer(), run_ms :: pos_integer()}}

  @doc """
  What the last run took, for each that ran: `own` is what its figure grew by, `taken_bytes` what memory
  grew by in all. A run that took little does not make one that took much forgotten at once.
  """
  @spec costs(costs(), %{pid() => non_neg_integer()}, non_neg_integer(), pos_integer()) :: costs()
  def costs(costs, own, _taken_bytes, _run_ms) when own == %{}, do: costs

  def costs(costs, own, taken_bytes, run_ms) do
    known = own |> Map.values() |> Enum.sum()
    besides = div(max(taken_bytes - known, 0), map_size(own))

    Enum.reduce(own, costs, fn {pid, bytes}, costs ->
      {before, _} = Map.get(costs, pid, {0, run_ms})
      Map.put(costs, pid, {max(bytes + besides, div(before, 2)), run_ms})
    end)
  end

  @doc """
  Of `pids` with their steps (OOM.Steps), in the order of their turn: who runs, for how long, and who
  stands on. At least one runs, unless one that is in a collection does so anyway: `busy_bytes` is what such
  ones take, and those that take a step run after it.
  """
  @spec choose(
          [{pid(), step_bytes :: non_neg_integer()}],
          costs(),
          {distance_bytes :: non_neg_integer(), floor_bytes :: pos_integer()},
          pos_integer(),
          non_neg_integer()
        ) :: {run :: [pid()], run_ms :: pos_integer(), stand :: [pid()]}
  def choose(pids, costs, {distance, floor}, last_ms, busy_bytes \\ 0) do
    budget = max(div(distance - busy_bytes, Turn.share()), div(floor, Turn.floor_share()))
    {later, pids} = Enum.split_with(pids, fn {_, step} -> busy_bytes > 0 and step > budget end)
    {run, stand, taken} = take(pids, costs, unknown_bytes(costs), budget)
    stand = stand ++ for {pid, _} <- later, do: pid
    {run, if(stand == [], do: run_ms(budget, taken, last_ms), else: Turn.shortest_ms()), stand}
  end

  @doc """
  Whether a step (OOM.Steps) fits into what is left beside those that are being taken. It may pass the floor
  for a moment, as a healthy collection does, but by no more than the part that OOM.Need grants too. A worker
  whose step takes more is the next victim, and no kill takes effect in a worker once the step has begun.
  """
  @spec fits?(
          non_neg_integer(),
          {distance_bytes :: non_neg_integer(), floor_bytes :: non_neg_integer()},
          non_neg_integer()
        ) :: boolean()
  def fits?(step, {distance, floor}, busy_bytes),
    do: step == 0 or step + busy_bytes <= distance + div(floor, Limits.step_share())

  @doc """
  Whether steps that may be taken at the same time, as many of the largest as there are schedulers, do not
  fit together.
  """
  @spec crowded?([non_neg_integer()], non_neg_integer(), pos_integer()) :: boolean()
  def crowded?(steps, distance, schedulers),
    do: steps |> Enum.sort(:desc) |> Enum.take(schedulers) |> Enum.sum() > distance

  @doc "Whether so much is left above the floor that one that has taken the node there may go on."
  @spec room?({distance_bytes :: non_neg_integer(), floor_bytes :: pos_integer()}) :: boolean()
  def room?({distance, floor}), do: distance >= div(floor, Turn.floor_share())

  defp unknown_bytes(costs) do
    if map_size(costs) < Turn.known_enough(),
      do: Turn.unknown_bytes(),
      else: Enum.reduce(costs, 0, fn {_, {bytes, _}}, most -> max(bytes, most) end)
  end

  defp take(pids, costs, unknown, budget) do
    {run, stand, taken} =
      Enum.reduce(pids, {[], [], 0}, fn {pid, step}, {run, stand, taken} ->
        cost = max(cost(costs, pid, unknown), step)

        if run == [] or taken + cost <= budget,
          do: {[pid | run], stand, taken + cost},
          else: {run, [pid | stand], taken}
      end)

    {Enum.reverse(run), Enum.reverse(stand), taken}
  end

  defp cost(costs, pid, unknown) do
    case costs do
      %{^pid => {bytes, _}} -> bytes
      _ -> unknown
    end
  end

  # As long as what it takes fits, but no more than twice as long as the last.
  defp run_ms(_budget, 0, last_ms), do: min(last_ms * 2, Turn.longest_ms())

  defp run_ms(budget, taken, last_ms) do
    fits = div(budget * last_ms, taken)
    fits |> min(last_ms * 2) |> max(Turn.shortest_ms()) |> min(Turn.longest_ms())
  end

  @doc "Whether these, let run, would not reach the floor within so many ms."
  @spec calm?([pid()], costs(), non_neg_integer(), pos_integer()) :: boolean()
  def calm?(pids, costs, distance_bytes, within_ms) do
    rate =
      for pid <- pids, reduce: 0 do
        rate ->
          case costs do
            %{^pid => {bytes, run_ms}} -> rate + bytes / run_ms
            _ -> rate
          end
      end

    rate * within_ms <= distance_bytes and Enum.all?(pids, &is_map_key(costs, &1))
  end
end
