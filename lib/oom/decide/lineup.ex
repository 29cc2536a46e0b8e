defmodule OOM.Lineup do
  @moduledoc false
  # The workers that the throttle suspends, and the findings on each: pure. From the looks at this stand and
  # at the last the lineup tells which workers grow, which are left alone for a while, what a run has cost,
  # and which workers may run next.

  alias OOM.{Evidence, Limits, Slices, Standing, Workers}
  alias OOM.Limits.Turn

  # {pid, row, growth shown} of each worker
  defstruct seen: [],
            # {reductions, bytes, waits?} of each worker at this stand, and at the last
            looks: %{},
            before: %{},
            # the workers shown to grow now, and the ranks of all workers shown to grow before
            growers: %{},
            ranks: %{},
            # whether each worker may have grown when the throttle first stopped the worker
            suspects: %{},
            # the workers that have come in the last moments, and when each appeared
            newcomers: %{},
            # the memory of the newcomers that stand for the first time, after the first turn
            fresh_bytes: 0,
            # the workers left alone, and until when
            alone: %{},
            # the workers that cannot be killed and may grow; and the part of them that stands at the floor
            # until there is room
            bound: %{},
            kept: %{},
            # the workers whose step does not fit, and since when
            refused: %{},
            # the cost of each worker's last run
            costs: %{},
            # for so many turns the throttle looks for growth that no figure shows
            hidden_turns: 0,
            # the growth of the last turns that no figure shows
            besides_bytes: 0,
            # growth while workers stand, and whether the growth is foreign
            standing: %Standing{},
            foreign?: false

  # Workers left alone have grown during a stand: by more than this, or the stand would have gone on.
  @unknown_bytes Turn.alert_bytes()

  @type seen :: {pid(), Workers.row(), grown_bytes :: non_neg_integer()}
  @type t :: %__MODULE__{}
  @type room :: {distance_bytes :: non_neg_integer(), floor_bytes :: non_neg_integer()}

  @doc "Records the look at this stand."
  @spec read(t(), [seen()]) :: t()
  def read(line, seen) do
    looks = Map.new(seen, fn {pid, row, _} -> {pid, look_of(row)} end)
    fresh = for {pid, row, _} <- seen, not is_map_key(line.suspects, pid), do: row
    # Only the first look counts: a suspended worker cannot grow, so later looks say nothing.
    suspects = for row <- fresh, into: line.suspects, do: {elem(row, 0), Evidence.suspect?(row)}

    came = for row <- fresh, is_map_key(line.newcomers, elem(row, 0)), do: elem(row, 2)
    fresh_bytes = if line.suspects == %{}, do: 0, else: Enum.sum(came)

    %{
      line
      | seen: seen,
        before: line.looks,
        looks: looks,
        suspects: suspects,
        fresh_bytes: fresh_bytes
    }
  end

  # The reductions, the figure, and whether the worker waited when it could have run.
  defp look_of({_, _, bytes, _, _, _, _, _, {reductions, _, %{waits?: waits?}}}),
    do: {reductions, bytes, waits?}

  defp look_of({_, _, bytes, _, _, _, _, _, _not_read}), do: {nil, bytes, false}

  @doc """
  Records how much memory has grown in the last run beside the figures of the workers that ran, before the
  workers are sorted. Where figures show less than a part of the growth, the throttle looks for the growing
  worker by an experiment.
  """
  @spec hidden(t(), integer()) :: t()
  def hidden(line, besides_bytes) do
    faded = round(line.besides_bytes * (1 - Limits.Scan.fades()))
    line = %{line | besides_bytes: max(faded + besides_bytes, 0)}

    # The workers left alone have just begun to stand because memory has grown.
    begins? = match?(%{all?: true, ms: 0}, line.standing)
    besides = if begins?, do: max(line.besides_bytes, @unknown_bytes), else: line.besides_bytes

    # Without the growth that an experiment has shown.
    known = for {_, row, _} <- line.seen, reduce: 0, do: (sum -> sum + Evidence.grown_bytes(row))

    cond do
      besides >= Limits.Scan.hidden_bytes() and known * Limits.cause_share() < besides ->
        %{line | hidden_turns: Limits.Scan.turns()}

      besides >= Limits.Scan.hidden_bytes() and known >= besides ->
        %{line | hidden_turns: 0}

      true ->
        %{line | hidden_turns: max(line.hidden_turns - 1, 0)}
    end
  end

  @doc "Records a scan. After some scans in which nothing grew the experiment is over."
  @spec scanned(t(), boolean()) :: t()
  def scanned(line, false), do: line

  def scanned(line, true) do
    left = line.hidden_turns - div(Limits.Scan.turns(), Limits.Scan.quiet_scans())
    %{line | hidden_turns: max(left, 0), besides_bytes: 0}
  end

  @doc """
  Returns the growth of memory in the last run beside the figures of the workers that ran, in bytes, and beside what
  workers hold that have come meanwhile. Eighty requests came while the first stand was under way; counted as hidden
  growth, their memory began an experiment with others.
  """
  @spec besides_bytes(t(), [pid()], integer()) :: integer()
  def besides_bytes(line, pids, grown_bytes),
    do: grown_bytes - line.fresh_bytes - (pids |> Enum.map(&grown_by(&1, line)) |> Enum.sum())

  @doc "Sorts the workers into growers and workers left alone from now on; returns the latter."
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
    # The growth of a collection that goes on while its worker should stand is not foreign.
    explained? = verdict != :wait and Standing.explained?(line.standing, grown_all(seen))
    standing = if explained?, do: %Standing{}, else: standing
    foreign? = verdict == :foreign and not explained?

    leave_alone(
      %{line | growers: growers, ranks: ranks, standing: standing, foreign?: foreign?},
      episode,
      now_ms + Turn.alone_ms()
    )
  end

  defp leave_alone(%{standing: %{all?: true}} = line, _episode, _until),
    do: {[], %{line | alone: %{}}}

  # A worker that no figure shows to grow may grow all the same.
  defp leave_alone(%{hidden_turns: turns} = line, _episode, _until_ms) when turns > 0,
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

  # Two kinds of workers take nothing. A worker that has not run yet, and holds no more than before memory
  # grew, unless the worker wants to run and workers of the same rank grow. And a worker that has run, has
  # taken nothing, and waits for a message. To wait alone shows nothing: the worker may be between two
  # timeouts.
  defp free?(pid, row, %{suspects: suspects, ranks: ranks, costs: costs} = line) do
    waits? = waits?(line, pid)

    case costs do
      %{^pid => {bytes, _}} -> waits? and bytes < Limits.grown_bytes()
      # Where nobody is known to grow, anybody who wants to run may.
      _ when ranks == %{} -> suspects[pid] == false and waits?
      _ -> suspects[pid] == false and (waits? or not is_map_key(ranks, elem(row, 1)))
    end
  end

  # A worker that has run for a while without growth takes nothing.
  defp steady?(pid, row, episode, line) do
    with true <- Evidence.shown?(row, episode),
         {before, _, _} when is_integer(before) <- line.before[pid],
         {now, _, _} when is_integer(now) <- line.looks[pid] do
      now - before > Turn.ran_reductions()
    else
      _ -> false
    end
  end

  @doc "Leaves no worker alone from now on, because memory grows although the line stands."
  @spec all(t()) :: t()
  def all(line), do: %{line | alone: %{}, standing: Standing.all()}

  @doc "Records that the guard lets these workers run, so that they act on an exit signal."
  @spec released(t(), [pid()]) :: t()
  def released(line, pids), do: %{line | growers: Map.drop(line.growers, pids)}

  @doc """
  Returns the workers that may stand for longer, because they are shown to grow, or have just come: new work waits
  before work let in earlier does.
  """
  @spec shown(t()) :: %{pid() => term()}
  def shown(%{growers: growers, kept: kept, newcomers: newcomers}),
    do: growers |> Map.merge(kept) |> Map.merge(newcomers)

  @doc "Returns the growth of the known growers since the last stand, in bytes."
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

  @doc """
  Charges the workers that ran last with the growth of memory during the run. `busy` workers do not stand yet, so
  their look is old.
  """
  @spec charge(t(), [pid()], [pid()], {grown_bytes :: non_neg_integer(), run_ms :: pos_integer()}) ::
          t()
  def charge(line, pids, busy, {grown_bytes, run_ms}) do
    # Workers that have come meanwhile have not cost this run.
    grown_bytes = max(grown_bytes - line.fresh_bytes, 0)
    own = for pid <- pids, is_map_key(line.looks, pid), do: {pid, grown_by(pid, line)}

    # Growth that no figure shows is not charged to a worker that did not run.
    stood? = fn {pid, grown} -> grown == 0 and pid not in busy and stood?(pid, line) end
    {still, ran} = Enum.split_with(own, stood?)
    {rested, late} = Enum.split_with(still, fn {pid, _} -> waits?(line, pid) end)
    late = for {pid, _} <- late, do: pid

    # Where nobody had a turn the workers may not want one, unless a sweep (OOM.Sweep) kept all from running.
    fades = if ran == [], do: Turn.idle_fades(), else: Turn.late_fades()
    costs = Slices.costs(line.costs, Map.new(rested), 0, run_ms)
    costs = Slices.late(costs, late, run_ms, fades)
    %{line | costs: Slices.costs(costs, Map.new(ran), grown_bytes, run_ms)}
  end

  @doc "Forgets the cost of a worker that has ended."
  @spec ended(t(), pid()) :: t()
  def ended(line, pid), do: %{line | costs: Map.delete(line.costs, pid)}

  # The worker has had no turn since the last stand, as far as the looks tell.
  defp stood?(pid, line) do
    case {line.before[pid], line.looks[pid]} do
      {{before, _, _}, {now, _, _}} when is_integer(before) and is_integer(now) ->
        now - before <= Limits.rested_reductions()

      {nil, {_, _, waits?}} ->
        waits?

      _ ->
        false
    end
  end

  @doc "Splits workers with their steps: waiting workers that have not run, which cost nothing, and the rest."
  @spec rested(t(), [{pid(), non_neg_integer()}]) :: {[pid()], [{pid(), non_neg_integer()}]}
  def rested(line, pids) do
    free? = fn {pid, _} ->
      not is_map_key(line.growers, pid) and not begun?(pid, line) and rested?(pid, line)
    end

    {rested, others} = Enum.split_with(pids, free?)
    {for({pid, _} <- rested, do: pid), others}
  end

  @doc """
  Returns workers with their steps, where the step of a newcomer in the middle of its work is at least the largest cost
  of a run: the last part of a body came, and one request took 25 MB in its next turn.
  """
  @spec at_work(t(), [{pid(), non_neg_integer()}]) :: [{pid(), non_neg_integer()}]
  def at_work(line, pids) do
    dear = Slices.unknown_bytes(line.costs)
    for {pid, step} <- pids, do: {pid, if(begun?(pid, line), do: max(step, dear), else: step)}
  end

  defp begun?(pid, %{newcomers: newcomers} = line),
    do: is_map_key(newcomers, pid) and figure_bytes(line, pid) >= Turn.begun_bytes()

  @doc "Returns a worker's own figure at the look of this stand, in bytes."
  @spec figure_bytes(t(), pid()) :: non_neg_integer()
  def figure_bytes(%{looks: looks}, pid) do
    case looks do
      %{^pid => {_, bytes, _}} -> bytes
      _ -> 0
    end
  end

  @doc "Tells whether a worker waited for a message at the look of this stand."
  @spec waits?(t(), pid()) :: boolean()
  def waits?(%{looks: looks}, pid), do: match?(%{^pid => {_, _, true}}, looks)

  # The worker waits, and has had no turn.
  defp rested?(pid, line), do: waits?(line, pid) and stood?(pid, line)

  # No kill takes effect in a worker during a collection. So a grower whose next step does not fit is not let
  # run. The guard has the same figure and kills such a worker; while the guard waits for memory on the way
  # back, the worker stands. The step may never come, so no worker stands for it longer than the guard waits
  # for late figures.
  @doc "Refuses the growers whose next step does not fit; returns the workers that may run."
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

  # The figure of the worker shows growth, or the worker's last run took memory: no figure shows the memory
  # that a heap takes from a block the heap already has.
  defp takes?(pid, %{growers: growers, costs: costs}) do
    case costs do
      _ when is_map_key(growers, pid) -> true
      %{^pid => {bytes, _}} -> bytes >= Limits.grown_bytes()
      _ -> false
    end
  end

  # A grower that cannot be killed takes the node along unless the grower stands still, however little it
  # grows beside others. Let go for the first bytes that come back, the grower is at the floor again with the
  # next step.
  @doc "Keeps the growers that cannot be killed standing at the floor until there is room."
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
