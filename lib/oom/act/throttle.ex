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
    Lineup,
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
  alias OOM.Throttle.{Sample, Suspended}

  # The least stand: what was freed is back by then, and a decision has taken effect. And the longest,
  # where figures are late; below 50 ms with the run and what the schedulers add.
  @stand_ms 15
  @longest_ms Limits.longest_stand_ms()
  # So long at most it is waited until all stand; one in a long collection does not for hundreds of ms.
  @settle_ms 10
  # Whom a stand takes in.
  @line 1_000
  @of_each_rank 400
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
      # who they are, and what is known of them
      line: %Lineup{},
      # since when each stands, when the first has to run, how long the last stand took, and whether
      # some were let run in it
      since: %{},
      due_ms: :infinity,
      stood_ms: @stand_ms,
      loose?: false,
      # who ran last: {sample before, pids, how long}
      ran: nil,
      # the turn in which each ran last
      ran_turn: %{},
      calm: 0,
      # growth was seen among those that are left alone
      alert?: false
    }
  end

  defp turn(state) do
    with {:ok, state} <- stand(state), {:ok, state} <- go(state) do
      cond do
        state.line.foreign? and not crowded?(state) -> exit({:shutdown, :foreign})
        state.calm >= @calm_turns -> :ok
        true -> turn(%{state | turn: state.turn + 1})
      end
    end
  end

  # Growth of nobody's does not make room for steps that do not fit together: let go, two heaps of 110 MB
  # were copied at once.
  defp crowded?(%{line: %{seen: seen}} = state) do
    steps = for {pid, _, _} <- seen, do: Steps.bytes_of(pid)

    Slices.crowded?(
      steps,
      Sample.distance(Sample.take(state.watcher)),
      :erlang.system_info(:schedulers_online)
    )
  end

  # -- All that may grow stand still and are read.

  defp stand(state) do
    began_ms = now()

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

    state =
      due(%{
        state
        | line: %{state.line | alone: alone, bound: bound},
          still: still,
          since: Stretches.begun(since, Map.keys(still), began_ms),
          loose?: false
      })

    with {:ok, state} <- wait(state, began_ms + @settle_ms, :stood),
         settled = Sample.take(state.watcher),
         look = look(line),
         {:ok, state} <- wait(state, began_ms + @longest_ms, {:looked, look}),
         standing = Sample.take(state.watcher),
         state =
           line |> read(state) |> stood_for(settled, standing) |> sort() |> charge(standing),
         :ok = Guard.look(self(), Sample.rate(settled, standing)) do
      # At first nobody is known to need it longer.
      with {:ok, state} <- stand_longer(state, standing, began_ms + @stand_ms),
           do: {:ok, due(%{state | stood_ms: max(now() - began_ms, @stand_ms)})}
    end
  end

  defp stand_longer(%{turn: 0} = state, _standing, _until_ms), do: {:ok, state}
  defp stand_longer(state, standing, until_ms), do: stand_on(state, standing, until_ms)

  defp due(state), do: %{state | due_ms: Stretches.due_ms(state.since, Lineup.shown(state.line))}

  # These have stood as long as one may who is not shown to grow.
  defp let_go(state) do
    pids = Stretches.due(state.since, Lineup.shown(state.line), now())
    still = Enum.reduce(pids, state.still, &Suspended.resume/2)
    due(%{state | still: still, since: Map.drop(state.since, pids), loose?: true})
  end

  # Others look at those that are left alone meanwhile.
  defp grows?(pid) do
    row = Workers.lookup(pid)
    row != nil and Evidence.grown_bytes(row) >= Limits.grown_bytes()
  end

  # What known growers have taken since the last stand may have been charged late, or be about to be.
  defp stood_for(%{line: line} = state, from, to) do
    bytes = Sample.moved(from, to)

    # One in a collection does not stand yet, and takes what it copies into.
    if state.loose? or busy(state) != [] or
         (bytes > 0 and Lineup.explained_bytes(line) * 2 >= bytes),
       do: state,
       else: standing(state, Standing.add(line.standing, bytes, to.at_ms - from.at_ms))
  end

  defp standing(state, standing), do: %{state | line: %{state.line | standing: standing}}

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
      now = Sample.take(state.watcher)

      cond do
        # Where growth goes on while all stand, more of that tells nothing new.
        not state.line.standing.all? and not state.loose? and busy(state) == [] and
            Sample.moved(standing, now) > @alert_bytes ->
          {:ok, %{state | alert?: true, line: Lineup.all(state.line)}}

        now.at_ms >= until_ms ->
          {:ok, stood_for(state, standing, now)}

        true ->
          stand_on(state, standing, until_ms)
      end
    end
  end

  defp busy(%{still: still}), do: Suspended.busy(still)

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

  defp read(pids, state) do
    seen = for pid <- pids, row = Workers.lookup(pid), do: {pid, row, Evidence.grown_bytes(row)}
    %{state | line: Lineup.read(state.line, seen)}
  end

  defp sort(state) do
    {alone, line} = Lineup.sort(state.line, Level.episode(), now())
    %{state | line: line, still: Enum.reduce(alone, state.still, &Suspended.resume/2)}
  end

  defp charge(%{ran: nil} = state, _standing), do: state

  defp charge(%{ran: {before, pids, run_ms}} = state, standing),
    do: %{state | line: Lineup.charge(state.line, pids, Sample.grown(before, standing), run_ms)}

  # -- Some run.

  # Memory grows on: all stand in the next turn, and that begins now.
  defp go(%{alert?: true} = state), do: {:ok, %{state | alert?: false, ran: nil, calm: 0}}

  defp go(state) do
    before = Sample.take(state.watcher)
    distance = Sample.distance(before)
    last_ms = if state.ran, do: elem(state.ran, 2), else: 1

    room = {distance, before.floor_bytes || 0}
    %{line: %{kept: kept}} = state = keep(state, room)

    # One in a collection runs until that is through, and nobody else with a step like that beside it.
    busy = for pid <- busy(state), not is_map_key(kept, pid), do: pid

    # Who has stood longest first.
    pids =
      for pid <- Enum.sort_by(Map.keys(state.still) -- busy, &Map.get(state.ran_turn, &1, -1)),
          not is_map_key(kept, pid),
          do: {pid, Steps.bytes_of(pid)}

    busy_bytes = busy |> Enum.map(&Steps.bytes_of/1) |> Enum.sum()
    {rested, pids} = Lineup.rested(state.line, pids)
    # One that would have stood too long after the next stand runs now, whatever it costs.
    by_ms = now() + 1 + state.stood_ms
    due = state.since |> Stretches.due(Lineup.shown(state.line), by_ms) |> MapSet.new()
    {late, pids} = Enum.split_with(pids, fn {pid, _} -> MapSet.member?(due, pid) end)
    {pids, line} = Lineup.refuse(state.line, pids, room, busy_bytes, now())
    {run, run_ms, stand} = Slices.choose(pids, line.costs, room, last_ms, busy_bytes)
    run = rested ++ for({pid, _} <- late, do: pid) ++ run
    # What those take that run because it is time fits into nothing.
    run_ms = if late == [], do: run_ms, else: min(run_ms, last_ms)

    # While they may run it shows who wants to.
    _ = if rem(state.turn, @look_turns) == 0, do: look(run)

    within_ms = Limits.throttle_ms()

    calm? =
      stand == [] and busy == [] and kept == %{} and line.refused == %{} and
        Standing.quiet?(line.standing) and
        before.drift_bytes_per_s * within_ms <= distance * 1_000 and
        Slices.calm?(run, line.costs, distance, within_ms)

    state = %{state | line: line, still: Enum.reduce(run, state.still, &Suspended.resume/2)}

    with {:ok, state} <- run_on(state, run, before, now() + run_ms) do
      calm = if calm?, do: state.calm + 1, else: 0
      ran_turn = Enum.reduce(run, state.ran_turn, &Map.put(&2, &1, state.turn))
      {:ok, %{state | ran: {before, run, run_ms}, ran_turn: ran_turn, calm: calm}}
    end
  end

  # Where nobody runs it is a stand.
  defp run_on(state, [], before, until_ms), do: stand_on(state, before, until_ms)
  defp run_on(state, _run, _before, until_ms), do: wait(state, until_ms, nil)

  defp keep(%{line: before} = state, room) do
    line = Lineup.keep(before, room)
    _ = if before.kept == %{} and line.kept != %{}, do: Reporter.kept(Map.keys(line.kept))
    %{state | line: line}
  end

  # -- Until then, or until what is waited for: that all stand, or that a look is through.
  defp wait(state, until_ms, :stood) do
    wait(state, until_ms, {:stood, length(busy(state))})
  end

  defp wait(state, _until_ms, {:stood, 0}), do: {:ok, state}

  defp wait(%{guard: guard} = state, until_ms, what) do
    receive do
      {{Suspended, pid}, _how} ->
        {still, news?} = Suspended.stands(state.still, pid)
        wait(%{state | still: still}, until_ms, if(news?, do: one_less(what), else: what))

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

  defp one_less({:stood, count}), do: {:stood, count - 1}
  defp one_less(what), do: what

  defp release_all(state, pids) do
    line = Lineup.released(state.line, pids)
    %{state | line: line, still: Enum.reduce(pids, state.still, &Suspended.resume/2)}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
