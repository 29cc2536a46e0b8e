defmodule OOM.VictimQueue do
  @moduledoc false
  # Picks the victims. Within the first rank, from the lowest up, that has candidates:
  #
  # | order | who                                                                             |
  # |-------|---------------------------------------------------------------------------------|
  # | never | protected workers, supervisors, workers that would take either along            |
  # | never | workers whose figure is not known, or so small that a kill frees nothing        |
  # | 1     | workers shown to grow: dynamic children before static ones, the largest first   |
  # | 2     | newcomers, where they are a cause together: the newest first (OOM.Crowd)        |
  # | 2     | workers that have come lately, where no cause is known and they hold a part of  |
  # |       | all that is used: the newest first                                              |
  # | 3     | steady workers below `:normal`, where they cover the need                       |
  # | 4     | other steady workers, once an episode: for the growth of a higher rank, where   |
  # |       | they cover the need and a second of growth; or where nothing grows, near the    |
  # |       | limit                                                                           |
  # | last  | the same of the next rank                                                       |
  #
  # Where a worker does not answer (no kill interrupts a collection), the choice waits for the worker rather
  # than take others in its place. The memory taken meanwhile is explained by the collection, as far as the
  # worker's step goes (OOM.Steps). Other workers shown to grow are measured by the rest of the growth, and by
  # the growth of the late worker.
  #
  # The choice reads the plan (OOM.Plan) in order, so the cost does not depend on the number of workers, and
  # asks no process anything.

  alias OOM.{
    Charges,
    Crowd,
    EndedGrowth,
    Evidence,
    Level,
    Limits,
    Newcomers,
    Plan,
    Priority,
    Steps,
    Tree,
    Units,
    Workers
  }

  @normal Priority.rank!(:normal)

  @type victim :: %{
          pid: pid(),
          rank: 0..1000,
          bytes: non_neg_integer(),
          grown_bytes: non_neg_integer(),
          state: Workers.state(),
          supervisor: pid() | nil,
          id: term(),
          name: OOM.WorkerName.t() | nil
        }

  @typedoc """
  Why these victims: they grow; they have just come; they have come lately and hold much; they are steady and
  cover the need. Or why none: figures are late; there is no candidate.
  """
  @type verdict :: :growing | :crowd | :came | :steady | :late | :none

  @typedoc """
  The bounds of a choice:

    * `:need_bytes` - the memory all victims must hold together
    * `:steady_bytes` - the memory steady victims must hold together; `nil` where they must not pay
    * `:soon_bytes` - the same for workers below `:normal` while memory grows; `nil` likewise
    * `:recent_bytes` - the growth of memory in the time in which growth is remembered
    * `:ended` - the growth that the last victims were shown to have
    * `:crowd_bytes` - the memory of the last victims that were newcomers
    * `:used_bytes` - the memory in use, where workers that have come lately may go
    * `:count` - the most victims, besides newcomers
    * `:min_bytes` - smaller workers are left alone
    * `:grows?` - memory grows, so no worker is chosen before two looks show the growers
    * `:fresh_ms` - the highest age of a figure
    * `:late` - whether to `:wait` for older figures, or to `:pass` over them
    * `:ceiling` - the highest rank that may be chosen
    * `:now_ms` - the time to which figures' ages are taken
  """
  @type limits :: %{
          need_bytes: integer(),
          steady_bytes: integer() | nil,
          soon_bytes: integer() | nil,
          recent_bytes: pos_integer(),
          ended: EndedGrowth.t(),
          crowd_bytes: non_neg_integer(),
          used_bytes: non_neg_integer() | nil,
          count: pos_integer(),
          min_bytes: pos_integer(),
          grows?: boolean(),
          fresh_ms: pos_integer(),
          late: :wait | :pass,
          ceiling: 0..1000,
          now_ms: integer()
        }

  @doc """
  Returns the bounds of a choice that frees `need_bytes` as the guard would, for the asker and the shedder.
  """
  @spec limits(integer(), pos_integer(), integer()) :: limits()
  def limits(need_bytes, count, now_ms) do
    %{
      need_bytes: need_bytes,
      steady_bytes: need_bytes,
      soon_bytes: need_bytes,
      recent_bytes: Limits.recent_bytes(),
      ended: %EndedGrowth{},
      crowd_bytes: 0,
      used_bytes: nil,
      count: count,
      min_bytes: OOM.Tables.config().min_victim_bytes,
      grows?: false,
      fresh_ms: Limits.fresh_at_rest_ms(),
      late: :pass,
      ceiling: 1000,
      now_ms: now_ms
    }
  end

  @spec choose(limits()) :: {[victim()], verdict()}
  # Where nothing grows there is time to see how much memory the last kills gave back.
  def choose(%{grows?: false, steady_bytes: nil}), do: {[], :late}

  def choose(%{need_bytes: need, count: count} = limits) when need > 0 and count > 0 do
    ranks = ranks(Plan.first_rank(), Map.put(limits, :episode, Level.episode()))
    %{ended: ended} = limits
    total = Enum.reduce(ranks, ended.total_bytes, &(&1.grown_bytes + &2))
    fastest = Enum.reduce(ranks, ended.fastest_bytes, &max(&1.fastest_bytes, &2))
    limits = explained(limits, ranks |> Enum.map(& &1.steps_bytes) |> Enum.sum())
    first(ranks, %{total: total, fastest: fastest}, limits)
  end

  def choose(_limits), do: {[], :none}

  defp ranks(nil, _limits), do: []

  defp ranks(rank, limits) do
    {known, late} = candidates(rank, limits)
    grown = Enum.map(known, & &1.grown_bytes)
    late_grown = Enum.map(late, &elem(&1, 0))

    row = %{
      rank: rank,
      known: known,
      late?: late != [],
      # Workers that just work do not add up to a cause, however many there are.
      grown_bytes: grown |> Enum.filter(&(&1 >= Limits.grown_bytes())) |> Enum.sum(),
      # In every rank, a worker that grows much slower than the last victims is no cause yet.
      fastest_bytes: Enum.max([limits.ended.fastest_bytes | grown ++ late_grown]),
      steps_bytes: late |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    }

    [row | ranks(Plan.next_rank(rank), limits)]
  end

  defp explained(%{recent_bytes: recent} = limits, steps_bytes),
    do: %{limits | recent_bytes: max(recent - steps_bytes, min(recent, Limits.recent_bytes()))}

  defp first([], _all, _limits), do: {[], :none}
  defp first([%{rank: rank} | _], _all, %{ceiling: top}) when rank > top, do: {[], :late}

  defp first([%{known: known} = row | higher], all, limits) do
    case growing(known, measure(row, all, limits), limits) do
      [_ | _] = victims ->
        {victims, :growing}

      [] ->
        cond do
          victims = newcomers(row.rank, all, limits) ->
            {victims, :crowd}

          row.late? and limits.late == :wait ->
            {[], :late}

          victims = came(row.rank, higher, all, limits) ->
            {victims, :came}

          victims = steady(known, pays(row.rank, higher, all, limits), limits) ->
            {victims, :steady}

          true ->
            first(higher, all, limits)
        end
    end
  end

  # Newcomers are no cause of growth that has ended, nor where none has come lately: then no row is read.
  defp newcomers(rank, all, %{grows?: true} = limits) do
    lately? = Newcomers.since?(limits.now_ms - Limits.newcomer_ms())
    if lately? or limits.crowd_bytes > 0, do: crowd(rank, all, limits)
  end

  defp newcomers(_rank, _all, _at_rest), do: nil

  defp crowd(rank, all, limits) do
    newest = Newcomers.latest(rank, Limits.newcomers())

    victims =
      for {at_ms, row} <- newest,
          not Units.spared?(elem(row, 5), elem(row, 0)),
          do: {at_ms, victim(row, 0, limits.now_ms)}

    Crowd.choose(victims, %{
      need_bytes: limits.need_bytes,
      min_bytes: limits.min_bytes,
      crowd_bytes: limits.crowd_bytes,
      total_bytes: all.total,
      recent_bytes: recent_bytes(limits),
      full?: length(newest) == Limits.newcomers(),
      now_ms: limits.now_ms
    })
  end

  # Eighty requests grew for seconds, each too slowly to be a grower, until nothing was left. Where memory grows and no
  # cause is known, workers that have come while memory was not at rest go, the newest first, if together they hold a
  # part of the used memory, and as much as is needed. Workers that hold less may have come by chance while another
  # process grows.
  defp came(rank, higher, all, %{grows?: true, need_bytes: need, used_bytes: used} = limits)
       when is_integer(used) do
    since_ms = limits.now_ms - Limits.came_ms()
    known? = Enum.any?(higher, &cause?(&1, all, limits))
    come? = not known? and Newcomers.since?(since_ms)
    newest = if come?, do: Newcomers.latest(rank, Limits.came()), else: []

    victims =
      for {at_ms, row} <- newest,
          at_ms >= since_ms,
          came?(row, limits),
          do: victim(row, 0, limits.now_ms)

    bytes = sum(victims)

    if bytes >= need and Evidence.cause?(bytes, bytes, used),
      do: take(victims, need, length(victims))
  end

  defp came(_rank, _higher, _all, _at_rest), do: nil

  defp came?({pid, _, bytes, _, state, supervisor, _, _, _}, limits),
    do: state != :new and bytes >= limits.min_bytes and not Units.spared?(supervisor, pid)

  # The growth that the growers of a rank are measured by, or `nil` where no grower of the rank goes. A rank
  # that is a cause goes by its fastest grower. In any other rank, with few workers left, the workers go that
  # grow like the fastest of all: no worker of a higher rank goes before them.
  defp measure(row, all, limits) do
    cond do
      cause?(row, all, limits) or adds?(row, all, limits) -> row.fastest_bytes
      Evidence.cause?(all.total, all.total, recent_bytes(limits)) -> all.fastest
      true -> nil
    end
  end

  # The fastest growth may come from no worker, such as from a program in the same cgroup. Workers below
  # `:normal` go all the same where their growth is a part of the missing memory.
  defp adds?(%{rank: rank} = row, all, limits) when rank < @normal do
    least = min(recent_bytes(limits), limits.need_bytes)
    Evidence.cause?(row.grown_bytes, all.total, max(least, Limits.recent_bytes()))
  end

  defp adds?(_row, _all, _limits), do: false

  defp cause?(row, all, limits),
    do: Evidence.cause?(row.grown_bytes, all.total, recent_bytes(limits))

  # Once growth has ended, the cause is the workers whose growth is a part of the missing memory, and not the
  # few that have just started.
  defp recent_bytes(%{grows?: true} = limits), do: limits.recent_bytes
  defp recent_bytes(limits), do: max(limits.recent_bytes, limits.need_bytes)

  # The memory the steady workers of a rank must hold together to pay, or `nil` where they do not pay. Steady
  # workers pay for a known cause of a higher rank, once an episode, and where nothing grows, near the limit.
  # For growth of no known worker, or of a protected worker, only workers declared below `:normal` pay, each
  # time they are needed.
  defp pays(rank, _higher, _all, %{grows?: true, soon_bytes: soon})
       when rank < @normal and is_integer(soon),
       do: soon

  defp pays(_rank, higher, all, %{grows?: true} = limits),
    do: if(Enum.any?(higher, &cause?(&1, all, limits)), do: limits.steady_bytes)

  defp pays(_rank, _higher, _all, at_rest), do: at_rest.steady_bytes

  # Shown growth is evidence enough; of the growers no more are taken than the need asks for.
  defp growing(_known, nil, _limits), do: []

  defp growing(known, fastest, limits) do
    known
    |> Enum.filter(&Evidence.grower?(&1.grown_bytes, fastest))
    |> in_order()
    |> take(limits.need_bytes, limits.count)
  end

  defp steady(_known, nil, _limits), do: nil

  defp steady(known, bytes, limits) do
    victims = known |> in_order() |> take(bytes, limits.count)
    if sum(victims) >= bytes, do: victims
  end

  # A dynamic child is one of many. The largest come first, so that the fewest die.
  defp in_order(victims), do: Enum.sort_by(victims, &{static?(&1.supervisor), -&1.bytes})

  defp static?(nil), do: false
  defp static?(supervisor), do: not Tree.dynamic?(supervisor)

  defp take(victims, need, count) do
    {taken, _left} =
      Enum.reduce_while(victims, {[], need}, fn victim, {taken, left} ->
        if left <= 0 or length(taken) >= count,
          do: {:halt, {taken, left}},
          else: {:cont, {[victim | taken], left - victim.bytes}}
      end)

    Enum.reverse(taken)
  end

  defp sum(victims), do: victims |> Enum.map(& &1.bytes) |> Enum.sum()

  # The largest workers of a rank that may be chosen, and for each worker whose figure is late the growth seen
  # and the step in progress.
  defp candidates(rank, limits) do
    rank
    |> Plan.largest(Limits.looks())
    |> Enum.reduce({[], []}, fn {minus, pid}, {known, late} ->
      row = Workers.lookup(pid)

      case judge({rank, -minus}, row, Charges.grown_bytes(pid, limits.now_ms), limits) do
        :late -> {known, [in_step(row, limits) | late]}
        nil -> {known, late}
        victim -> {[victim | known], late}
      end
    end)
  end

  # A worker that does not answer is in its step, if a step was due.
  defp in_step({pid, _, _, _, :stale, _, _, _, _} = row, limits),
    do: {Evidence.grown_bytes(row, limits.now_ms), Steps.bytes_of(pid)}

  defp in_step(_row, _limits), do: {0, 0}

  # The row decides: the key may just be replaced, and the worker then has another key.
  defp judge({rank, bytes}, {pid, rank, bytes, sampled, state, _, _, _, _} = row, charged, limits) do
    cond do
      state == :new or sampled == nil ->
        :late

      late?(state, sampled, limits) ->
        :late

      # An experiment shows growth, too, where no figure does.
      limits.grows? and charged == 0 and not Evidence.shown?(row, limits.episode) ->
        :late

      bytes + charged < limits.min_bytes ->
        nil

      Units.spared?(elem(row, 5), pid) ->
        nil

      true ->
        victim(row, charged, limits.now_ms)
    end
  end

  defp judge(_rank, _bytes, _row, _limits), do: nil

  defp late?(:stale, _sampled, _limits), do: true
  defp late?(_state, sampled, limits), do: limits.now_ms - sampled > limits.fresh_ms

  # No figure shows the memory that a worker is charged with, but the worker holds what it has taken.
  defp victim({pid, rank, bytes, _, state, supervisor, id, _, work} = row, charged, now_ms) do
    %{
      pid: pid,
      rank: rank,
      bytes: bytes + charged,
      grown_bytes: max(Evidence.grown_bytes(row, now_ms), charged),
      state: state,
      supervisor: supervisor,
      id: id,
      name: name(work)
    }
  end

  defp name({_, _, %{name: name}}), do: name
  defp name(_no_look), do: nil

  @doc """
  Returns the workers that the throttle looks at: of each rank the largest, and new workers without a look;
  lowest rank first, at most `count` in all, without the workers `left_alone`.
  """
  @spec line(pos_integer(), pos_integer(), map()) :: [pid()]
  def line(count, of_each_rank, left_alone),
    do: line(Plan.first_rank(), count, of_each_rank, left_alone)

  defp line(rank, count, _each, _left_alone) when rank == nil or count <= 0, do: []

  defp line(rank, count, each, left_alone) do
    new = Plan.smallest(rank, min(div(each, 4), count))
    pids = Enum.uniq(new ++ for({_, pid} <- Plan.largest(rank, min(each, count)), do: pid))
    # The row decides: a worker may be protected by now.
    pids = for pid <- pids, not is_map_key(left_alone, pid), Workers.rank(pid) == rank, do: pid
    pids = Enum.take(pids, count)
    pids ++ line(Plan.next_rank(rank), count - length(pids), each, left_alone)
  end
end
