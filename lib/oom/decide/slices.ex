defmodule OOM.Slices do
  @moduledoc false
  # Picks the suspended workers that may run next, and for how long: pure, for OOM.Throttle.
  #
  # The cost of a run is measured for each worker: the growth of its figure, and its share of the other growth
  # of memory. A worker stops only at the end of its turn, and reductions do not count bytes, so a worker may
  # take much more memory than a run of 1 ms suggests: 17 MB were seen. So of the workers that may grow only
  # so many run that their last costs fit into a part of the room above the floor; the others wait for the
  # next turn.

  alias OOM.Limits
  alias OOM.Limits.Turn

  @typedoc "The cost of each worker's last run, in bytes, and the length of the run, in ms."
  @type costs :: %{pid() => {bytes :: non_neg_integer(), run_ms :: pos_integer()}}

  @doc """
  Returns the costs after a run. `own` is the growth of each worker's figure, `taken_bytes` the growth of
  memory in all. A cheap run halves the cost of the run before rather than forget it.
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
  Returns the costs after a run in which these workers had no turn, known or assumed. Thirteen workers without a
  turn, taken to be cheap and let run together, took 35 MB in 20 ms. The costs fade by a part in each run, so that a
  worker that never has a turn, because another process has suspended it, does not keep the throttle at work for good.
  """
  @spec late(costs(), [pid()], pos_integer(), pos_integer()) :: costs()
  def late(costs, pids, run_ms, fades) do
    unknown = unknown_bytes(costs)

    for pid <- pids, into: costs do
      bytes = cost(costs, pid, unknown)
      {pid, {bytes - div(bytes, fades), run_ms}}
    end
  end

  @doc """
  Splits `pids` with their steps (OOM.Steps), in the order of their turn, into workers that run, and for how
  long, and workers that stand on. At least one worker runs, unless a worker in a collection runs anyway:
  `busy_bytes` are the steps of such workers, and workers with a large step run after them.
  """
  @spec choose(
          [{pid(), step_bytes :: non_neg_integer()}],
          costs(),
          {distance_bytes :: non_neg_integer(), floor_bytes :: pos_integer()},
          pos_integer(),
          non_neg_integer() | nil
        ) :: {run :: [pid()], run_ms :: pos_integer(), stand :: [pid()]}
  def choose(pids, costs, {distance, floor}, last_ms, busy_bytes \\ nil) do
    busy? = busy_bytes != nil
    budget = budget(distance - (busy_bytes || 0), floor)
    {later, pids} = Enum.split_with(pids, fn {_, step} -> busy? and step > budget end)
    {run, stand, taken} = take(pids, {costs, unknown_bytes(costs)}, budget, busy?)
    stand = stand ++ for {pid, _} <- later, do: pid
    {run, if(stand == [], do: run_ms(budget, taken, last_ms), else: Turn.shortest_ms()), stand}
  end

  @doc "Returns the growth that a turn may take, in bytes, at this distance above the floor."
  @spec budget(integer(), non_neg_integer()) :: non_neg_integer()
  def budget(distance, floor),
    do: max(div(distance, Turn.share()), div(floor, Turn.floor_share()))

  @doc """
  Tells whether a step (OOM.Steps) fits into the room that the steps in progress leave. A step may pass the
  floor for a moment, as a healthy collection does, but by no more than the part that OOM.Need grants too. A
  worker with a larger step is the next victim, and no kill takes effect in a worker once the step has begun.
  """
  @spec fits?(
          non_neg_integer(),
          {distance_bytes :: non_neg_integer(), floor_bytes :: non_neg_integer()},
          non_neg_integer()
        ) :: boolean()
  def fits?(step, {distance, floor}, busy_bytes),
    do: step == 0 or step + busy_bytes <= distance + div(floor, Limits.step_share())

  @doc """
  Tells whether steps that may be taken at the same time, the largest one for each scheduler, do not fit
  together.
  """
  @spec crowded?([non_neg_integer()], non_neg_integer(), pos_integer()) :: boolean()
  def crowded?(steps, distance, schedulers),
    do: steps |> Enum.sort(:desc) |> Enum.take(schedulers) |> Enum.sum() > distance

  @doc "Tells whether the room above the floor lets a worker that took the node to the floor go on."
  @spec room?({distance_bytes :: non_neg_integer(), floor_bytes :: pos_integer()}) :: boolean()
  def room?({distance, floor}), do: distance >= div(floor, Turn.floor_share())

  @doc "Returns the assumed cost of a worker that has not run, in bytes."
  @spec unknown_bytes(costs()) :: non_neg_integer()
  def unknown_bytes(costs) do
    # A worker that waits costs nothing, and tells nothing of the others.
    known = for {_, {bytes, _}} <- costs, bytes > 0, do: bytes
    if length(known) < Turn.known_enough(), do: Turn.unknown_bytes(), else: Enum.max(known)
  end

  defp take(pids, {costs, unknown}, budget, busy?) do
    {run, stand, taken} =
      Enum.reduce(pids, {[], [], 0}, fn {pid, step}, {run, stand, taken} ->
        cost = max(cost(costs, pid, unknown), step)

        if (run == [] and not busy?) or taken + cost <= budget,
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

  # As long as the cost fits, but no more than twice as long as the last run.
  defp run_ms(_budget, 0, last_ms), do: min(last_ms * 2, Turn.longest_ms())

  defp run_ms(budget, taken, last_ms) do
    fits = div(budget * last_ms, taken)
    fits |> min(last_ms * 2) |> max(Turn.shortest_ms()) |> min(Turn.longest_ms())
  end

  @doc "Tells whether these workers, let run, would stay above the floor for so many ms."
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
