defmodule OOM.Lineup do
  @moduledoc false
  # Those that the throttle makes stand still, and what is known of each: pure. Of the looks at this stand and
  # at the last it tells who grows, who is left alone for a while, what a run has cost, and who may run next.

  alias OOM.{Evidence, Limits, Slices, Standing, Workers}

  # One that has done so much work in a turn and has not grown is left alone for so long, in ms, unless others
  # who look see it grow. A leak that does next to nothing else takes 64 KiB with far less.
  @ran_reductions 20_000
  @alone_ms 800

  # {pid, row, growth shown} of each
  defstruct seen: [],
            # {reductions, bytes, waits?} of each at this stand, and at the last
            looks: %{},
            before: %{},
            # who was shown to grow, and the ranks of all that ever were
            growers: %{},
            ranks: %{},
            # whether they may have grown when they were first stopped
            suspects: %{},
            # who is left alone, and until when
            alone: %{},
            # who cannot be killed, and may grow; and who of them stands at the floor until there is room
            bound: %{},
            kept: %{},
            # whose step does not fit, and since when
            refused: %{},
            # what the last run of each took
            costs: %{},
            # growth while all stand that may be left out of account, and what it shows
            standing: %Standing{},
            foreign?: false

  @type seen :: {pid(), Workers.row(), grown_bytes :: non_neg_integer()}
  @type t :: %__MODULE__{}
  @type room :: {distance_bytes :: non_neg_integer(), floor_bytes :: non_neg_integer()}

  @doc "What a look at this stand has found."
  @spec read(t(), [seen()]) :: t()
  def read(line, seen) do
    looks = Map.new(seen, fn {pid, row, _} -> {pid, look_of(row)} end)
    # What a look at one that stands still finds later says nothing.
    suspects =
      for {pid, row, _} <- seen,
          not is_map_key(line.suspects, pid),
          into: line.suspects,
          do: {pid, Evidence.suspect?(row)}

    %{line | seen: seen, before: line.looks, looks: looks, suspects: suspects}
  end

  # Its reductions, its figure, and whether it waited when it could have run.
  defp look_of({_, _, bytes, _, _, _, _, _, {reductions, _, %{waits?: waits?}}}),
    do: {reductions, bytes, waits?}

  defp look_of({_, _, bytes, _, _, _, _, _, _not_read}), do: {nil, bytes, false}

  @doc "Who grows, by what is known now, and who is left alone from now on."
  @spec sort(t(), non_neg_integer(), integer()) :: {left_alone :: [pid()], t()}
  def sort(%{seen: seen} = line, episode, now_ms) do
    most = seen |> Enum.map(&elem(&1, 2)) |> Enum.max(fn -> 0 end)

    growers =
      for {pid, _, grown} <- seen, Evidence.grower?(grown, most), into: %{}, do: {pid, true}

    ranks =
      for {pid, row, _} <- seen,
          is_map_key(growers, pid),
          into: line.ranks,
          do: {elem(row, 1), true}

    {verdict, standing} = Standing.judge(line.standing)
    # A collection that goes on while its worker should stand is no growth of nobody's.
    explained? = verdict != :wait and Standing.explained?(line.standing, grown_all(seen))
    standing = if explained?, do: %Standing{}, else: standing
    foreign? = verdict == :foreign and not explained?

    leave_alone(
      %{line | growers: growers, ranks: ranks, standing: standing, foreign?: foreign?},
      episode,
      now_ms + @alone_ms
    )
  end

  defp leave_alone(%{standing: %{all?: true}} = line, _episode, _until),
    do: {[], %{line | alone: %{}}}

  defp leave_alone(line, episode, until_ms) do
    alone =
      for {pid, row, grown} <- line.seen,
          not is_map_key(line.kept, pid),
          grown < Limits.grown_bytes(),
          free?(pid, row, line) or steady?(pid, row, episode, line),
          into: %{},
          do: {pid, until_ms}

    {Map.keys(alone), %{line | alone: Map.merge(line.alone, alone)}}
  end

  defp grown_all(seen), do: for({_, _, grown} <- seen, reduce: 0, do: (sum -> sum + grown))

  # One that holds what it held before memory grew takes nothing, unless others of its rank do and it wants
  # to run; nor does one that has run, taken nothing, and waits for a message. That alone shows nothing: it
  # may be between two of its own timeouts.
  defp free?(pid, row, %{suspects: suspects, looks: looks, ranks: ranks, costs: costs}) do
    waits? = match?({_, _, true}, looks[pid])

    case costs do
      %{^pid => {bytes, _}} -> waits? and bytes < Limits.grown_bytes()
      _ -> suspects[pid] == false and (waits? or not is_map_key(ranks, elem(row, 1)))
    end
  end

  # One that has run for a while takes nothing.
  defp steady?(pid, row, episode, line) do
    with true <- Evidence.shown?(row, episode),
         {before, _, _} when is_integer(before) <- line.before[pid],
         {now, _, _} when is_integer(now) <- line.looks[pid] do
      now - before > @ran_reductions
    else
      _ -> false
    end
  end

  @doc "Growth was seen to go on without those that run: from now on nobody is left alone."
  @spec all(t()) :: t()
  def all(line), do: %{line | alone: %{}, standing: Standing.all()}

  @doc "These were let run to end, or because it was asked for."
  @spec released(t(), [pid()]) :: t()
  def released(line, pids), do: %{line | growers: Map.drop(line.growers, pids)}

  @doc "Who may stand for longer: those shown to grow."
  @spec shown(t()) :: %{pid() => true}
  def shown(%{growers: growers, kept: kept}), do: Map.merge(growers, kept)

  @doc "What known growers have taken since the last stand."
  @spec explained_bytes(t()) :: non_neg_integer()
  def explained_bytes(line) do
    for {pid, _} <- line.before, is_map_key(line.growers, pid), reduce: 0 do
      sum -> sum + grown_by(pid, line)
    end
  end

  defp grown_by(pid, line) do
    case {line.before[pid], line.looks[pid]} do
      {{_, before, _}, {_, now, _}} -> max(now - before, 0)
      _ -> 0
    end
  end

  @doc "These ran last, for so long, and memory has grown by so much."
  @spec charge(t(), [pid()], non_neg_integer(), pos_integer()) :: t()
  def charge(line, pids, grown_bytes, run_ms) do
    own = for pid <- pids, is_map_key(line.looks, pid), do: {pid, grown_by(pid, line)}
    # What nobody's figure shows is not of those that have not run.
    {rested, ran} = Enum.split_with(own, fn {pid, _} -> rested?(pid, line) end)
    costs = Slices.costs(line.costs, Map.new(rested), 0, run_ms)
    %{line | costs: Slices.costs(costs, Map.new(ran), grown_bytes, run_ms)}
  end

  @doc "Of these, with their steps, who waits, has taken nothing and so costs nothing; and the others."
  @spec rested(t(), [{pid(), non_neg_integer()}]) :: {[pid()], [{pid(), non_neg_integer()}]}
  def rested(line, pids) do
    free? = fn {pid, _} -> not is_map_key(line.growers, pid) and rested?(pid, line) end
    {rested, others} = Enum.split_with(pids, free?)
    {for({pid, _} <- rested, do: pid), others}
  end

  # It waits, and has not run since the last stand, as far as that is known.
  defp rested?(pid, line) do
    case {line.before[pid], line.looks[pid]} do
      {{before, _, _}, {now, _, true}} when is_integer(before) and is_integer(now) ->
        now - before <= Limits.rested_reductions()

      {nil, {_, _, waits?}} ->
        waits?

      _ ->
        false
    end
  end

  @doc "Of these, with their steps, who may run although it grows."
  # One that grows, and is about to take more in one step than there is, is not let run: no kill takes
  # effect in it once it has begun. The guard has the same figure, and ends one that grows; where it waits for
  # what is on its way back, so does this. A collection that does not come, or room that is there after all,
  # would keep it for ever: so not for longer than figures are waited for.
  @spec refuse(t(), [{pid(), non_neg_integer()}], room(), non_neg_integer(), integer()) ::
          {[{pid(), non_neg_integer()}], t()}
  def refuse(line, pids, room, busy_bytes, now_ms) do
    refused =
      for {pid, step} <- pids,
          takes?(pid, line),
          not Slices.fits?(step, room, busy_bytes),
          since = Map.get(line.refused, pid, now_ms),
          now_ms - since < Limits.late_ms(),
          into: %{},
          do: {pid, since}

    may = Enum.reject(pids, fn {pid, _} -> is_map_key(refused, pid) end)
    {may, %{line | refused: refused}}
  end

  # Shown to grow, by its figure or by what its last run took: what a heap takes of a block that it has
  # is in no figure.
  defp takes?(pid, %{growers: growers, costs: costs}) do
    case costs do
      _ when is_map_key(growers, pid) -> true
      %{^pid => {bytes, _}} -> bytes >= Limits.grown_bytes()
      _ -> false
    end
  end

  # Nothing but standing still keeps one that cannot be ended from taking the node along, however little it
  # grows beside others; and if it was let go for what was given back a moment ago, it would be at the floor
  # again with its next step.
  @doc "Who stands at the floor until there is room."
  @spec keep(t(), room()) :: t()
  def keep(%{kept: kept, bound: bound} = line, {distance, floor}) do
    kept =
      cond do
        distance > 0 and Slices.room?({distance, floor}) -> %{}
        distance > 0 -> Map.take(kept, Map.keys(bound))
        true -> Map.merge(Map.take(kept, Map.keys(bound)), bound_growers(line))
      end

    %{line | kept: kept}
  end

  defp bound_growers(%{bound: bound, seen: seen}) do
    for {pid, _, grown} <- seen,
        is_map_key(bound, pid) and grown >= Limits.grown_bytes(),
        into: %{},
        do: {pid, true}
  end
end
