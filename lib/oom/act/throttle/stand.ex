defmodule OOM.Throttle.Stand do
  @moduledoc false
  # The first half of a turn: all workers that may grow stand still and are read. The growth of memory
  # meanwhile tells the throttle whether the growth is theirs.
  #
  # A collection frees the heap it has copied, and the scheduler caches the memory: two workers of 9 MB took
  # 38 MB in 60 ms, while they ran one after the other. So where large heaps grow, each stand gives the memory
  # back before the growth of the stand is measured.

  alias OOM.{
    Charges,
    Evidence,
    Experiment,
    Guard,
    Level,
    Limits,
    Lineup,
    Standing,
    Steps,
    Stretches,
    Trim,
    Units
  }

  alias OOM.{VictimQueue, Workers}
  alias OOM.Limits.Turn
  alias OOM.{Newcomers, Tree}
  alias OOM.Tree.Newborns
  alias OOM.Throttle.{Look, Narrow, Sample, State, Suspended, Wait}

  # The most workers of a stand, in all and of each rank.
  @line 1_000
  @of_each_rank 400

  @doc "Suspends and reads all workers of the line; `:ok` where the guard has ended."
  @spec run(State.t()) :: {:ok, State.t()} | :ok
  def run(state) do
    began_ms = now()
    # Finds them while the known workers come to stand.
    Newborns.start(state.searches, state.turn > 0)
    known = Workers.count()

    alone =
      for {pid, until} <- state.line.alone,
          until > began_ms,
          not grows?(pid),
          into: %{},
          do: {pid, until}

    bound = bound(alone)
    line = VictimQueue.line(@line, @of_each_rank, alone) ++ Map.keys(bound)

    since = Stretches.only(state.since, state.still)
    still = Enum.reduce(line, state.still, &Suspended.suspend/2)
    if state.trim? and Steps.any?(), do: Trim.start()

    state =
      State.due(%{
        state
        | line: %{state.line | alone: alone, bound: bound},
          loose: [],
          watch_ms: :infinity,
          still: still,
          since: Stretches.begun(since, Map.keys(still), began_ms),
          loose?: false
      })

    with {:ok, state} <- Wait.until(state, began_ms + Turn.settle_ms(), :stood),
         {:ok, line, state} <- newborns(line, known, state),
         state = Narrow.stop(state),
         settled = Sample.take(state.watcher),
         look = Look.start(line),
         {:ok, state} <-
           Wait.until(state, began_ms + Limits.longest_stand_ms(), {:looked, look}),
         standing = Sample.take(state.watcher),
         state =
           line
           |> read(state)
           |> hidden(standing)
           |> stood_for(settled, standing)
           |> sort()
           |> charge(standing),
         :ok = Guard.look(self(), Sample.rate(settled, standing)) do
      # At first no worker is known to need a longer stand.
      with {:ok, state} <- longer(state, standing, began_ms + Turn.stand_ms()),
           do: {:ok, State.due(%{state | stood_ms: max(now() - began_ms, Turn.stand_ms())})}
    end
  end

  # The workers that the search has found meanwhile.
  defp newborns(line, known, %{line: %{alone: alone}} = state) do
    more = if Workers.count() > known, do: VictimQueue.line(@line, @of_each_rank, alone), else: []
    # A worker that was let go meanwhile is not stopped again.
    had = Map.new(line, &{&1, true})

    case Enum.reject(more, &(is_map_key(had, &1) or is_map_key(state.still, &1))) do
      [] ->
        {:ok, line, state}

      new ->
        with {:ok, state} <-
               state |> State.suspend(new) |> Wait.until(now() + Turn.born_ms(), :stood),
             do: {:ok, line ++ new, state}
    end
  end

  defp longer(%{turn: 0} = state, _standing, _until_ms), do: {:ok, state}
  # The runs that follow take long together.
  defp longer(%{line: %{hidden_turns: turns}} = state, _, _) when turns > 0, do: {:ok, state}
  defp longer(state, standing, until_ms), do: go_on(state, standing, until_ms)

  @doc "Goes on with the stand until this time, unless the workers left alone begin to grow meanwhile."
  @spec go_on(State.t(), Sample.t(), integer()) :: {:ok, State.t()} | :ok
  def go_on(state, standing, until_ms) do
    with {:ok, state} <- Wait.until(state, min(now() + Turn.watch_ms(), until_ms), nil) do
      now = Sample.take(state.watcher)

      cond do
        # Where growth goes on while all workers stand, more growth tells nothing new.
        not state.line.standing.all? and not state.loose? and State.busy(state) == [] and
            Sample.moved(standing, now) > Turn.alert_bytes() ->
          {:ok, %{state | alert?: true, line: Lineup.all(state.line)}}

        now.at_ms >= until_ms ->
          {:ok, stood_for(state, standing, now)}

        true ->
          go_on(state, standing, until_ms)
      end
    end
  end

  # The accountant looks at the workers left alone.
  defp grows?(pid) do
    row = Workers.lookup(pid)
    row != nil and Evidence.grown_bytes(row) >= Limits.grown_bytes()
  end

  # A worker that nobody may kill, because a protected worker would end with it, may grow all the same.
  defp bound(alone) do
    for pid <- Enum.take(Units.bound(), @of_each_rank),
        not is_map_key(alone, pid),
        Units.own(pid) not in [:protected, nil],
        Workers.rank(pid) == :protected,
        into: %{},
        do: {pid, true}
  end

  defp read(pids, state) do
    seen = for pid <- pids, row = Workers.lookup(pid), do: {pid, row, grown_bytes(pid, row)}
    %{state | line: Lineup.read(%{state.line | newcomers: newcomers(seen)}, seen)}
  end

  # Work that comes and goes. A static child that has been started again is waited for by others.
  defp newcomers(seen) do
    came = Newcomers.since(now() - Turn.newcomer_ms())

    below =
      for {pid, {_, _, _, _, _, supervisor, _, _, _}, _} <- seen,
          is_map_key(came, pid) and supervisor != nil,
          do: {pid, supervisor}

    # Siblings have the same answer.
    supervisors =
      for supervisor <- below |> Enum.map(&elem(&1, 1)) |> Enum.uniq(),
          Tree.dynamic?(supervisor),
          into: %{},
          do: {supervisor, true}

    for {pid, supervisor} <- below,
        is_map_key(supervisors, supervisor),
        into: %{},
        do: {pid, came[pid]}
  end

  defp grown_bytes(pid, row), do: max(Evidence.grown_bytes(row), Charges.grown_bytes(pid, now()))

  # Growth of known growers since the last stand may be charged late, or still be due.
  defp stood_for(%{line: line} = state, from, to) do
    bytes = Sample.moved(from, to)

    # A worker in a collection does not stand yet, and takes the memory that the collection copies into.
    if state.loose? or State.busy(state) != [] or
         (bytes > 0 and Lineup.explained_bytes(line) * 2 >= bytes),
       do: state,
       else: standing(state, Standing.add(line.standing, bytes, to.at_ms - from.at_ms))
  end

  defp standing(state, standing), do: %{state | line: %{state.line | standing: standing}}

  defp sort(state) do
    {alone, line} = Lineup.sort(state.line, Level.episode(), now())
    State.resume(%{state | line: line}, alone)
  end

  defp hidden(%{line: line, ran: ran} = state, standing) do
    besides =
      case ran do
        nil -> 0
        {before, pids, _} -> Lineup.besides_bytes(line, pids, Sample.moved(before, standing))
      end

    gone = for {pid, _} <- state.experiment.runs, not is_map_key(line.looks, pid), do: pid
    experiment = Experiment.forget(state.experiment, gone, elem(Sample.room(standing), 0))
    %{state | line: Lineup.hidden(line, besides), experiment: experiment}
  end

  defp charge(%{ran: nil} = state, _standing), do: state

  defp charge(%{ran: {before, pids, run_ms}} = state, standing) do
    took = {Sample.grown(before, standing), run_ms}
    %{state | line: Lineup.charge(state.line, pids, State.busy(state), took)}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
