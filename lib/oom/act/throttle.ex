defmodule OOM.Throttle do
  @moduledoc false
  # Slows the workers that grow, in slices, while growth would reach the floor soon: they stand still
  # for 15 to 40 ms and run for 1 ms or more, so that growth fits the time that exact figures, a trim and a
  # decision take. A legitimate load goes through, a little later; a leak arrives at the floor slowly.
  # While workers stand still they answer at once: each stand reads their figures anew.
  #
  #   * All that may be killed stand still at first. One that does not want to run, or that has run and
  #     has not grown, is left alone for a while.
  #   * Of the others those run whose last runs fit into what is left above the floor (OOM.Slices). One
  #     whose run takes more than that waits for its turn; it is the next victim. At the floor one that
  #     grows and cannot be ended, because a protected one would end with it, stands until there is room:
  #     one that sleeps between its steps, too, which 40 ms of standing do not slow.
  #   * Where memory grows in nobody's figures while all stand (OOM.Standing), the growth is none of theirs,
  #     and the throttle ends.
  #
  # `suspend_process/2` is meant for debugging, because others may wait for what is suspended. So
  # nobody stands for longer than 50 ms at a stretch who is not shown to grow, and supervisors and
  # protected workers never do. Nothing is lost: state and messages are kept, and an exit signal still
  # ends a suspended process.
  #
  # Whoever suspends must end the suspension, and the VM ends it when he ends: so it is a process of
  # its own, which also ends with the guard. It needs nobody to go on, and ends by itself when the
  # workers, let run, do not grow towards the floor any more. It asks no worker anything itself.

  alias OOM.{
    Beginners,
    Evidence,
    Guard,
    Level,
    Limits,
    Native,
    Owned,
    Probe,
    Reporter,
    Slices,
    Standing,
    Steps,
    Stretches
  }

  alias OOM.{Tables, Units, VictimQueue, Workers}

  # The least stand: what was freed is back by then, and a decision has taken effect. And the longest,
  # where figures are late; below 50 ms with the run and what the schedulers add.
  @stand_ms 15
  @longest_ms Limits.longest_stand_ms()
  # So long at most it is waited until all stand; one in a long collection does not for hundreds of ms.
  @settle_ms 10
  # Whom a stand takes in.
  @line 1_000
  @of_each_rank 400
  # One that has done so much work in a turn and has not grown is left alone for so long, in ms, unless others
  # who look see it grow. A leak that does next to nothing else takes 64 KiB with far less.
  @ran_reductions 20_000
  @alone_ms 800
  # In the first of so many turns the workers are also looked at while they may run.
  @look_turns 8
  # To read whose children so many processes are takes 30 ms. Where there are more the accountant's
  # figures have to do.
  @many_processes 30_000
  # Probes at a time. One may be held up by a worker in a long collection; the others go on.
  @probes 4
  # So many turns without growth towards the floor, and it ends.
  @calm_turns 3
  # How often a stand looks whether those that are left alone grow, and what makes it end.
  @watch_ms 5
  @alert_bytes 4 * 1_048_576

  @type t :: %{pid: pid(), ref: reference()}

  @doc "Begins to throttle; the caller is told of the end by the monitor."
  @spec start(Native.watcher()) :: t()
  def start(watcher) do
    options = [:monitor, priority: :max, min_heap_size: 20_000, message_queue_data: :off_heap]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, [self(), watcher], options)
    %{pid: pid, ref: ref}
  end

  @doc "These have to act on their exit signal, and go on."
  @spec release(t() | nil, [pid()]) :: :ok
  def release(nil, _pids), do: :ok

  def release(throttle, pids) do
    send(throttle.pid, {:release, pids})
    :ok
  end

  @doc false
  @spec run(pid(), Native.watcher()) :: :ok | no_return()
  def run(guard, watcher), do: Tables.while_there(fn -> turn(new(guard, watcher)) end)

  defp new(guard, watcher) do
    %{
      guard: Process.monitor(guard),
      watcher: watcher,
      turn: 0,
      # who stands still
      still: %{},
      # who was shown to grow
      growers: %{},
      # since when each stands, when the first has to run, how long the last stand took, and whether
      # some were let run in it
      since: %{},
      due_ms: :infinity,
      stood_ms: @stand_ms,
      loose?: false,
      # who is left alone, and until when
      alone: %{},
      # who cannot be killed, and may grow; and who of them stands at the floor until there is room
      bound: %{},
      kept: %{},
      # whose step does not fit, and since when
      refused: %{},
      # whether they may have grown when they were first stopped
      suspects: %{},
      # the ranks of those that were shown to grow
      ranks: %{},
      # {reductions, bytes, waits?} of each at this stand, and at the last
      looks: %{},
      before: %{},
      # {pid, row, growth shown} of the line
      seen: [],
      # who ran last: {sample before, pids, how long}
      ran: nil,
      # the turn in which each ran last
      ran_turn: %{},
      costs: %{},
      calm: 0,
      # growth while all stand that may be left out of account, and what it shows
      standing: %Standing{},
      foreign?: false,
      # growth was seen among those that are left alone
      alert?: false
    }
  end

  defp turn(state) do
    with {:ok, state} <- stand(state), {:ok, state} <- go(state) do
      cond do
        state.foreign? and not crowded?(state) -> exit({:shutdown, :foreign})
        state.calm >= @calm_turns -> :ok
        true -> turn(%{state | turn: state.turn + 1})
      end
    end
  end

  # Growth of nobody's does not make room for steps that do not fit together: let go, two heaps of 110 MB
  # were copied at once.
  defp crowded?(%{seen: seen} = state) do
    steps = for {pid, _, _} <- seen, do: Steps.bytes_of(pid)
    Slices.crowded?(steps, distance(sample(state)), :erlang.system_info(:schedulers_online))
  end

  # -- All that may grow stand still and are read.

  defp stand(state) do
    began_ms = now()

    alone =
      for {pid, until} <- state.alone,
          until > began_ms,
          not grows?(pid),
          into: %{},
          do: {pid, until}

    bound = bound(alone)
    line = VictimQueue.line(@line, @of_each_rank, alone) ++ Map.keys(bound)

    since = Stretches.only(state.since, state.still)
    still = Enum.reduce(line, state.still, &suspend/2)

    state =
      due(%{
        state
        | alone: alone,
          bound: bound,
          still: still,
          since: Stretches.begun(since, Map.keys(still), began_ms),
          loose?: false
      })

    with {:ok, state} <- wait(state, began_ms + @settle_ms, :stood),
         settled = sample(state),
         look = look(line),
         {:ok, state} <- wait(state, began_ms + @longest_ms, {:looked, look}),
         standing = sample(state),
         state = line |> read(state) |> stood_for(settled, standing) |> sort() |> costs(standing),
         :ok = Guard.look(self(), rate(settled, standing)) do
      # At first nobody is known to need it longer.
      with {:ok, state} <- stand_longer(state, standing, began_ms + @stand_ms),
           do: {:ok, due(%{state | stood_ms: max(now() - began_ms, @stand_ms)})}
    end
  end

  defp stand_longer(%{turn: 0} = state, _standing, _until_ms), do: {:ok, state}
  defp stand_longer(state, standing, until_ms), do: stand_on(state, standing, until_ms)

  defp due(state), do: %{state | due_ms: Stretches.due_ms(state.since, shown(state))}

  # Who may stand for longer: those shown to grow.
  defp shown(%{growers: growers, kept: kept}), do: Map.merge(growers, kept)

  # These have stood as long as one may who is not shown to grow.
  defp let_go(state) do
    pids = Stretches.due(state.since, shown(state), now())
    still = Enum.reduce(pids, state.still, &resume/2)
    due(%{state | still: still, since: Map.drop(state.since, pids), loose?: true})
  end

  # Others look at those that are left alone meanwhile.
  defp grows?(pid) do
    row = Workers.lookup(pid)
    row != nil and Evidence.grown_bytes(row) >= Limits.grown_bytes()
  end

  # What known growers have taken since the last stand may have been charged late, or be about to be.
  defp stood_for(%{standing: standing} = state, from, to) do
    bytes = moved(from, to)
    growers = Map.filter(state.before, fn {pid, _} -> is_map_key(state.growers, pid) end)

    # One in a collection does not stand yet, and takes what it copies into.
    if state.loose? or busy(state) != [] or
         (bytes > 0 and explained(growers, state) * 2 >= bytes),
       do: state,
       else: %{state | standing: Standing.add(standing, bytes, to.at_ms - from.at_ms)}
  end

  # Those that nobody may kill, because a protected one would end with them, may grow all the same.
  defp bound(alone) do
    for pid <- Enum.take(Units.bound(), @of_each_rank),
        not is_map_key(alone, pid),
        Units.own(pid) not in [:protected, nil],
        Workers.rank(pid) == :protected,
        into: %{},
        do: {pid, true}
  end

  # Those that are left alone may begin to grow meanwhile.
  defp stand_on(state, standing, until_ms) do
    with {:ok, state} <- wait(state, min(now() + @watch_ms, until_ms), nil) do
      now = sample(state)

      cond do
        # Where growth goes on while all stand, more of that tells nothing new.
        not state.standing.all? and not state.loose? and busy(state) == [] and
            moved(standing, now) > @alert_bytes ->
          {:ok, %{state | alert?: true, alone: %{}, standing: Standing.all()}}

        now.at_ms >= until_ms ->
          {:ok, stood_for(state, standing, now)}

        true ->
          stand_on(state, standing, until_ms)
      end
    end
  end

  defp busy(%{still: still}), do: for({pid, false} <- still, do: pid)

  # Reads what the line holds: what it owns at once, then each process. Throw-away processes do it,
  # because a worker in a long collection does not answer before its end.
  defp look(pids) do
    throttle = self()
    ref = make_ref()

    _pid =
      :erlang.spawn_opt(
        fn ->
          many? = :erlang.system_info(:process_count) > @many_processes
          kinds = if many?, do: [:tables, :ports], else: [:tables, :ports, :children]
          for kind <- kinds, do: Owned.read(kind)
          Beginners.read()
          chunk = Probe.chunk(pids)
          probes = for _ <- 1..@probes, do: elem(Probe.start(chunk, :max), 1)
          for probe <- probes, do: receive(do: ({:DOWN, ^probe, _, _, _} -> :ok))
          send(throttle, {:looked, ref})
        end,
        priority: :max
      )

    ref
  end

  defp read(line, state) do
    seen = for pid <- line, row = Workers.lookup(pid), do: {pid, row, Evidence.grown_bytes(row)}
    looks = Map.new(seen, fn {pid, row, _} -> {pid, look_of(row)} end)
    # What a look at one that stands still finds later says nothing.
    suspects =
      for {pid, row, _} <- seen,
          not is_map_key(state.suspects, pid),
          into: state.suspects,
          do: {pid, Evidence.suspect?(row)}

    %{state | seen: seen, before: state.looks, looks: looks, suspects: suspects}
  end

  # Its reductions, its figure, and whether it waited when it could have run.
  defp look_of({_, _, bytes, _, _, _, _, _, {reductions, _, %{waits?: waits?}}}),
    do: {reductions, bytes, waits?}

  defp look_of({_, _, bytes, _, _, _, _, _, _not_read}), do: {nil, bytes, false}

  # Who grows, by the figures there are now, and who is left alone.
  defp sort(%{seen: seen} = state) do
    most = seen |> Enum.map(&elem(&1, 2)) |> Enum.max(fn -> 0 end)

    growers =
      for {pid, _, grown} <- seen, Evidence.grower?(grown, most), into: %{}, do: {pid, true}

    episode = Level.episode()

    ranks =
      for {pid, row, _} <- seen,
          is_map_key(growers, pid),
          into: state.ranks,
          do: {elem(row, 1), true}

    state = %{state | growers: growers, ranks: ranks}

    {verdict, standing} = Standing.judge(state.standing)
    # A collection that goes on while its worker should stand is no growth of nobody's.
    explained? = verdict != :wait and Standing.explained?(state.standing, grown_all(seen))
    standing = if explained?, do: %Standing{}, else: standing
    state = %{state | standing: standing, foreign?: verdict == :foreign and not explained?}

    alone =
      for {pid, row, grown} <- seen,
          not standing.all? and not is_map_key(state.kept, pid),
          grown < Limits.grown_bytes(),
          free?(pid, row, state) or steady?(pid, row, episode, state),
          into: %{},
          do: {pid, now() + @alone_ms}

    %{
      state
      | still: alone |> Map.keys() |> Enum.reduce(state.still, &resume/2),
        alone: if(standing.all?, do: %{}, else: Map.merge(state.alone, alone))
    }
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
  defp steady?(pid, row, episode, state) do
    with true <- Evidence.shown?(row, episode),
         {before, _, _} when is_integer(before) <- state.before[pid],
         {now, _, _} when is_integer(now) <- state.looks[pid] do
      now - before > @ran_reductions
    else
      _ -> false
    end
  end

  # What known growers have taken since the last stand.
  defp explained(growers, state),
    do: for({pid, _} <- growers, reduce: 0, do: (sum -> sum + grown_by(pid, state)))

  defp grown_by(pid, state) do
    case {state.before[pid], state.looks[pid]} do
      {{_, before, _}, {_, now, _}} -> max(now - before, 0)
      _ -> 0
    end
  end

  defp costs(%{ran: nil} = state, _standing), do: state

  defp costs(%{ran: {before, pids, run_ms}} = state, standing) do
    own = for pid <- pids, is_map_key(state.looks, pid), do: {pid, grown_by(pid, state)}
    # What nobody's figure shows is not of those that have not run.
    {rested, ran} = Enum.split_with(own, fn {pid, _} -> rested?(pid, state) end)
    costs = Slices.costs(state.costs, Map.new(rested), 0, run_ms)
    %{state | costs: Slices.costs(costs, Map.new(ran), grown(before, standing), run_ms)}
  end

  # It waits, and has not run since the last stand, as far as that is known.
  defp rested?(pid, state) do
    case {state.before[pid], state.looks[pid]} do
      {{before, _, _}, {now, _, true}} when is_integer(before) and is_integer(now) ->
        now - before <= Limits.rested_reductions()

      {nil, {_, _, waits?}} ->
        waits?

      _ ->
        false
    end
  end

  # -- Some run.

  # Memory grows on: all stand in the next turn, and that begins now.
  defp go(%{alert?: true} = state), do: {:ok, %{state | alert?: false, ran: nil, calm: 0}}

  defp go(state) do
    before = sample(state)
    distance = distance(before)
    last_ms = if state.ran, do: elem(state.ran, 2), else: 1

    room = {distance, before.floor_bytes || 0}
    %{kept: kept} = state = keep(state, room)

    # One in a collection runs until that is through, and nobody else with a step like that beside it.
    busy = for pid <- busy(state), not is_map_key(kept, pid), do: pid

    pids =
      for pid <- turned(Map.keys(state.still) -- busy, state),
          not is_map_key(kept, pid),
          do: {pid, Steps.bytes_of(pid)}

    busy_bytes = busy |> Enum.map(&Steps.bytes_of/1) |> Enum.sum()
    {rested, late, may} = free_or_late(pids, state)
    {%{refused: refused} = state, may} = refuse(state, may, room, busy_bytes)
    {run, run_ms, stand} = Slices.choose(may, state.costs, room, last_ms, busy_bytes)
    run = rested ++ late ++ run
    # What those take that run because it is time fits into nothing.
    run_ms = if late == [], do: run_ms, else: min(run_ms, last_ms)

    # While they may run it shows who wants to.
    _ = if rem(state.turn, @look_turns) == 0, do: look(run)

    within_ms = Limits.throttle_ms()

    calm? =
      stand == [] and busy == [] and kept == %{} and refused == %{} and
        Standing.quiet?(state.standing) and
        before.drift_bytes_per_s * within_ms <= distance * 1_000 and
        Slices.calm?(run, state.costs, distance, within_ms)

    state = %{state | still: Enum.reduce(run, state.still, &resume/2)}

    with {:ok, state} <- run_on(state, run, before, now() + run_ms) do
      calm = if calm?, do: state.calm + 1, else: 0
      ran_turn = Enum.reduce(run, state.ran_turn, &Map.put(&2, &1, state.turn))
      {:ok, %{state | ran: {before, run, run_ms}, ran_turn: ran_turn, calm: calm}}
    end
  end

  # One that grows, and is about to take more in one step than there is, is not let run: no kill takes
  # effect in it once it has begun. The guard has the same figure, and ends one that grows; where it waits for
  # what is on its way back, so does this. A collection that does not come, or room that is there after all,
  # would keep it for ever: so not for longer than figures are waited for.
  defp refuse(state, pids, room, busy_bytes) do
    now = now()

    refused =
      for {pid, step} <- pids,
          takes?(pid, state),
          not Slices.fits?(step, room, busy_bytes),
          since = Map.get(state.refused, pid, now),
          now - since < Limits.late_ms(),
          into: %{},
          do: {pid, since}

    {%{state | refused: refused}, Enum.reject(pids, fn {pid, _} -> is_map_key(refused, pid) end)}
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

  # One that waits and has taken nothing costs nothing. And one that would have stood too long after the next
  # stand runs now, whatever it costs.
  defp free_or_late(pids, state) do
    by_ms = now() + 1 + state.stood_ms
    due = state.since |> Stretches.due(shown(state), by_ms) |> MapSet.new()
    free? = fn {pid, _} -> not is_map_key(state.growers, pid) and rested?(pid, state) end
    {rested, others} = Enum.split_with(pids, free?)
    {late, may} = Enum.split_with(others, fn {pid, _} -> MapSet.member?(due, pid) end)
    {for({pid, _} <- rested, do: pid), for({pid, _} <- late, do: pid), may}
  end

  # Where nobody runs it is a stand.
  defp run_on(state, [], before, until_ms), do: stand_on(state, before, until_ms)
  defp run_on(state, _run, _before, until_ms), do: wait(state, until_ms, nil)

  # Nothing but standing still keeps one that cannot be ended from taking the node along, however little it
  # grows beside others; and if it was let go for what was given back a moment ago, it would be at the floor
  # again with its next step.
  defp keep(%{kept: kept} = state, {distance, floor}) do
    now =
      cond do
        distance > 0 and Slices.room?({distance, floor}) -> %{}
        distance > 0 -> Map.take(kept, Map.keys(state.bound))
        true -> Map.merge(Map.take(kept, Map.keys(state.bound)), bound_growers(state))
      end

    _ = if kept == %{} and now != %{}, do: Reporter.kept(Map.keys(now))
    %{state | kept: now}
  end

  defp bound_growers(%{bound: bound, seen: seen}) do
    for {pid, _, grown} <- seen,
        is_map_key(bound, pid) and grown >= Limits.grown_bytes(),
        into: %{},
        do: {pid, true}
  end

  # Who has stood longest first.
  defp turned(pids, %{ran_turn: ran_turn}), do: Enum.sort_by(pids, &Map.get(ran_turn, &1, -1))

  # What is free inside the VM serves as well, unless the system has next to nothing left.
  defp distance(%{headroom_bytes: headroom, floor_bytes: floor, slack_bytes: slack})
       when is_integer(headroom) do
    slack = if headroom > div(floor, 2), do: slack, else: 0
    max(headroom + slack - floor, 0)
  end

  defp distance(_no_limit), do: 0

  defp grown(from, to), do: max(moved(from, to), 0)

  defp moved(%{headroom_bytes: before}, %{headroom_bytes: now})
       when is_integer(before) and is_integer(now),
       do: before - now

  defp moved(_unknown, _sample), do: 0

  defp rate(from, to), do: div(grown(from, to) * 1_000, max(to.at_ms - from.at_ms, 1))

  # -- Until then, or until what is waited for: that all stand, or that a look is through.
  defp wait(state, until_ms, :stood) do
    if Enum.all?(state.still, fn {_, stands?} -> stands? end),
      do: {:ok, state},
      else: wait(state, until_ms, {:stood, Enum.count(state.still, &(not elem(&1, 1)))})
  end

  defp wait(state, _until_ms, {:stood, 0}), do: {:ok, state}

  defp wait(%{guard: guard} = state, until_ms, what) do
    receive do
      {{__MODULE__, pid}, _how} ->
        {state, news?} = stood(state, pid)
        wait(state, until_ms, if(news?, do: one_less(what), else: what))

      {:looked, ref} when what == {:looked, ref} ->
        {:ok, state}

      {:looked, _earlier} ->
        wait(state, until_ms, what)

      {:release, pids} ->
        wait(release_all(state, pids), until_ms, what)

      {:DOWN, ^guard, _, _, _} ->
        :ok
    after
      max(min(until_ms, state.due_ms) - now(), 0) ->
        if now() >= until_ms,
          do: {:ok, state},
          else: wait(let_go(state), until_ms, what)
    end
  end

  defp stood(%{still: still} = state, pid) do
    case still do
      %{^pid => false} -> {%{state | still: %{still | pid => true}}, true}
      _ -> {state, false}
    end
  end

  defp one_less({:stood, count}), do: {:stood, count - 1}
  defp one_less(what), do: what

  defp release_all(state, pids) do
    growers = Map.drop(state.growers, pids)
    %{state | still: Enum.reduce(pids, state.still, &resume/2), growers: growers}
  end

  defp suspend(pid, still) when is_map_key(still, pid), do: still

  # The VM tells when it stands: at the end of its turn, or of a collection.
  defp suspend(pid, still) do
    :erlang.suspend_process(pid, asynchronous: {__MODULE__, pid})
    Map.put(still, pid, false)
  rescue
    # One that has ended is no error on every release.
    ArgumentError -> still
  end

  defp resume(pid, still) when is_map_key(still, pid) do
    :erlang.resume_process(pid)
    Map.delete(still, pid)
  rescue
    ArgumentError -> Map.delete(still, pid)
  end

  defp resume(_pid, still), do: still

  defp sample(state) do
    report = Native.watcher_report(state.watcher)

    %{
      at_ms: now(),
      headroom_bytes: report.headroom_bytes,
      floor_bytes: report.critical_headroom_bytes,
      slack_bytes: report.slack_bytes || 0,
      drift_bytes_per_s: report.drift_bytes_per_s || 0
    }
  end

  defp now, do: System.monotonic_time(:millisecond)
end
