defmodule OOM.Throttle do
  @moduledoc false
  # Slows the workers that grow, in slices, while growth would reach the floor soon: they stand still
  # for up to 40 ms and run for 1 ms or more, so that growth fits the time that exact figures, a trim
  # and a decision take. A legitimate load goes through, a little later; a leak arrives at the floor
  # slowly. While workers stand still they answer at once: each stand reads their figures anew.
  #
  #   * All that may be killed stand still at first. One that could have run and did not, or that has run
  #     and has not grown, is left alone for a while.
  #   * How long the others run follows from what the last run took: an eighth of what is left above
  #     the floor may be taken in a turn.
  #   * Workers whose next steps (OOM.Steps) do not fit at once run one after the other.
  #   * Where memory grows in nobody's figures while all stand, the growth is none of theirs, and the
  #     throttle ends.
  #
  # `suspend_process/2` is meant for debugging, because others may wait for what is suspended. So
  # nobody stands for longer than 50 ms at a stretch, and supervisors and protected workers never do.
  # Nothing is lost: state and messages are kept, and an exit signal still ends a suspended process.
  #
  # Whoever suspends must end the suspension, and the VM ends it when he ends: so it is a process of
  # its own, which also ends with the guard. It needs nobody to go on, and ends by itself when the
  # workers, let run, do not grow towards the floor any more.

  alias OOM.{Evidence, Guard, Level, Limits, Native, Owned, Probe, Steps, VictimQueue, Workers}

  # The stand and, after a run of at least 1 ms, the turn; below 50 ms with what the schedulers add.
  @stand_ms 40
  @run_ms 1
  # A run this long is no throttle.
  @free_ms 100
  # Once all that had begun is over (a turn of a process, a small collection), memory stands still.
  @settle_ms 6
  # Part of what is left above the floor that one turn may take.
  @share 8
  # Whom a stand takes in.
  @line 1_000
  @of_each_rank 400
  # One that has done so much work in a turn and has not grown is left alone for so many turns. A
  # leak that does next to nothing else takes 64 KiB with far less.
  @ran_reductions 20_000
  # One that has done no more than this waits.
  @idle_reductions 500
  @alone_turns 20
  # So many whose steps do not fit together run in a turn.
  @large 4
  # In the first of so many turns the workers are also looked at while they may run.
  @look_turns 8
  # Probes at a time. One may be held up by a worker in a long collection; the others go on.
  @probes 4
  # So many turns without growth towards the floor, and it ends.
  @calm_turns 3
  # So many stands of all in which memory grew on, and in nobody's figures: the growth is none of theirs.
  @foreign_turns 3
  # Less growth than this within a stand is what the kernel charges in batches, and others' noise.
  @noise_bytes 1_048_576

  @type t :: %{pid: pid(), ref: reference()}

  @doc "Begins to throttle; the caller is told of the end by the monitor."
  @spec start(Native.watcher()) :: t()
  def start(watcher) do
    options = [:monitor, priority: :max, min_heap_size: 10_000, message_queue_data: :off_heap]
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
  def run(guard, watcher) do
    state = %{
      guard: Process.monitor(guard),
      watcher: watcher,
      # who stands still
      still: %{},
      # who was shown to grow
      growers: %{},
      # who is left alone, and until which turn
      alone: %{},
      run_ms: @run_ms,
      # {reductions, bytes, waits?} of each at the last stand
      looks: %{},
      # {sample before the last run, how long it was}
      ran: nil,
      # what a run takes, in bytes/ms
      rate: 0,
      turns: 0,
      calm: 0,
      foreign: 0
    }

    turn(state)
  end

  defp turn(state) do
    with {:ok, state} <- stand(state), {:ok, state} <- go(state) do
      cond do
        state.foreign >= @foreign_turns -> exit({:shutdown, :foreign})
        state.calm >= @calm_turns -> :ok
        true -> turn(%{state | turns: state.turns + 1})
      end
    end
  end

  # -- All that want to run stand still and are read.

  defp stand(state) do
    began_ms = now()
    alone = for {pid, until} <- state.alone, until > state.turns, into: %{}, do: {pid, until}
    line = VictimQueue.line(@line, @of_each_rank, alone)
    state = %{state | alone: alone, still: Enum.reduce(line, state.still, &suspend/2)}
    look = look(line)

    with {:ok, state} <- wait(state, began_ms + @settle_ms, nil),
         settled = sample(state),
         state = judged(state, settled),
         {:ok, state} <- wait(state, began_ms + @stand_ms, look),
         standing = sample(state),
         state = sort(line, grown(settled, standing), state),
         _ = dbg_turn(began_ms, line, settled, standing, state),
         :ok = Guard.look(self(), rate(settled, standing)) do
      # At first nobody is known to need it longer.
      if state.turns == 0, do: {:ok, state}, else: wait(state, began_ms + @stand_ms, nil)
    end
  end

  defp dbg_turn(began, line, settled, standing, state) do
    if System.get_env("OOM_DBG"),
      do:
        :erlang.display(
          {:turn, now() - began,
           line: length(line),
           still: map_size(state.still),
           growers: map_size(state.growers),
           alone: map_size(state.alone),
           settled: div(settled.headroom_bytes, 1024),
           standing: div(standing.headroom_bytes, 1024),
           rate_kb_ms: trunc(state.rate / 1024),
           run_ms: state.run_ms,
           calm: state.calm,
           foreign: state.foreign,
           ran: state.ran && elem(state.ran, 1)}
        )
  end

  # Reads what the line holds: tables and ports once, then each process. Throw-away processes do it,
  # because a worker in a long collection does not answer before its end.
  defp look(line) do
    throttle = self()
    ref = make_ref()

    :erlang.spawn_opt(
      fn ->
        for kind <- [:tables, :ports], do: Owned.read(kind)
        chunk = Probe.chunk(line)
        probes = for _ <- 1..@probes, do: elem(Probe.start(chunk, :max), 1)
        for probe <- probes, do: receive(do: ({:DOWN, ^probe, _, _, _} -> :ok))
        send(throttle, {:looked, ref})
      end,
      priority: :max
    )

    ref
  end

  # Who grows, by the figures there are now, and who is left alone.
  defp sort(line, grew_bytes, state) do
    seen = for pid <- line, row = Workers.lookup(pid), do: {pid, row, Evidence.grown_bytes(row)}
    most = seen |> Enum.map(&elem(&1, 2)) |> Enum.max(fn -> 0 end)

    growers =
      for {pid, _, grown} <- seen, Evidence.grower?(grown, most), into: %{}, do: {pid, true}

    looks = for {pid, row, _} <- seen, into: %{}, do: {pid, look_of(row)}
    episode = Level.episode()

    alone =
      for {pid, row, grown} <- seen,
          grown < Limits.grown_bytes() and Evidence.shown?(row, episode) and
            had_its_chance?(pid, looks, state),
          into: %{},
          do: {pid, state.turns + @alone_turns}

    explained = explained(growers, state.looks, looks)

    # Memory that grows while they stand is of those who do not stand, or of nobody's here.
    {alone, foreign} =
      cond do
        grew_bytes <= @noise_bytes or explained * 2 >= grew_bytes ->
          {Map.merge(state.alone, alone), 0}

        state.alone == %{} ->
          {alone, state.foreign + 1}

        true ->
          {%{}, 0}
      end

    %{
      state
      | still: alone |> Map.keys() |> Enum.reduce(state.still, &resume/2),
        growers: growers,
        alone: alone,
        looks: looks,
        foreign: foreign
    }
  end

  # Its reductions, its figure, and whether it waited when it could have run.
  defp look_of({_, _, bytes, _, _, _, _, _, {reductions, _, %{waits?: waits?}}}),
    do: {reductions, bytes, waits?}

  defp look_of({_, _, bytes, _, _, _, _, _, nil}), do: {nil, bytes, false}

  # It ran for a while; or it did not want to.
  defp had_its_chance?(pid, looks, state) do
    case {state.looks[pid], looks[pid]} do
      {{before, _, _}, {now, _, waits?}} when is_integer(before) and is_integer(now) ->
        now - before > @ran_reductions or (waits? and now - before < @idle_reductions)

      _ ->
        false
    end
  end

  # What known growers have taken since the last stand.
  defp explained(growers, before, now) do
    for {pid, _} <- growers,
        {_, then, _} <- [before[pid]],
        {_, bytes, _} <- [now[pid]],
        reduce: 0 do
      sum -> sum + max(bytes - then, 0)
    end
  end

  # -- They run: all together, or where their steps do not fit at once, group by group.

  defp go(state) do
    before = sample(state)
    still = Map.keys(state.still)
    # While they may run it shows who wants to.
    if rem(state.turns, @look_turns) == 0, do: look(still)

    with {:ok, state} <- groups(grouped(still, before, state.turns), state),
         do: {:ok, %{state | ran: {before, max(now() - before.at_ms, 1)}}}
  end

  defp groups([], state), do: {:ok, state}

  defp groups([group | rest], state) do
    state = %{state | still: Enum.reduce(group, state.still, &resume/2)}

    with {:ok, state} <- wait(state, now() + state.run_ms, nil) do
      still = if rest == [], do: state.still, else: Enum.reduce(group, state.still, &suspend/2)
      groups(rest, %{state | still: still})
    end
  end

  # Those whose steps fit, however many of them run at once, run together; the others one after the
  # other, a few in each turn.
  defp grouped(pids, %{headroom_bytes: headroom, floor_bytes: floor}, turn)
       when is_integer(headroom) do
    room = max(headroom - div(floor, 2), 0)
    at_once = 2 * :erlang.system_info(:schedulers_online)
    {large, small} = Enum.split_with(pids, &(Steps.bytes_of(&1) * at_once > room))
    groups = large |> turned(turn * @large) |> Enum.take(@large) |> Enum.map(&[&1])
    if small == [], do: groups, else: [small | groups]
  end

  defp grouped(pids, _unknown, _turn), do: [pids]

  defp turned([], _by), do: []

  defp turned(list, by) do
    {first, rest} = Enum.split(list, rem(by, length(list)))
    rest ++ first
  end

  # What the run took, with what went on until all stood still again, says how long the next one may be,
  # and whether there is need of it.
  defp judged(%{ran: nil} = state, _settled), do: state

  defp judged(%{ran: {before, ran_ms}} = state, %{headroom_bytes: headroom} = settled)
       when is_integer(headroom) do
    rate = grown(before, settled) / ran_ms
    # A run whose growth found room inside the VM does not tell what the next one takes.
    rate = max(rate, state.rate / 2)
    distance = distance(settled)
    run_ms = if rate > 0, do: trunc(distance / @share / rate), else: @free_ms
    run_ms = run_ms |> min(state.run_ms * 2) |> max(@run_ms) |> min(@free_ms)
    calm? = rate == 0 or distance / rate > Limits.throttle_ms()
    %{state | run_ms: run_ms, rate: rate, calm: if(calm?, do: state.calm + 1, else: 0)}
  end

  defp judged(state, _no_limit), do: %{state | calm: state.calm + 1}

  # What is free inside the VM serves as well, unless the system has next to nothing left.
  defp distance(%{headroom_bytes: headroom, floor_bytes: floor, slack_bytes: slack}) do
    slack = if headroom > div(floor, 2), do: slack, else: 0
    max(headroom + slack - floor, 0)
  end

  defp grown(%{headroom_bytes: before}, %{headroom_bytes: now})
       when is_integer(before) and is_integer(now),
       do: max(before - now, 0)

  defp grown(_unknown, _sample), do: 0

  defp rate(from, to), do: div(grown(from, to) * 1_000, max(to.at_ms - from.at_ms, 1))

  # -- Until then, or until the look is through where one is waited for.
  defp wait(%{guard: guard} = state, until_ms, look) do
    receive do
      {:looked, ^look} when look != nil -> {:ok, state}
      {:looked, _earlier} when look == nil -> wait(state, until_ms, look)
      {:release, pids} -> wait(release_all(state, pids), until_ms, look)
      {:DOWN, ^guard, _, _, _} -> :ok
    after
      max(until_ms - now(), 0) -> {:ok, state}
    end
  end

  defp release_all(state, pids) do
    growers = Map.drop(state.growers, pids)
    %{state | still: Enum.reduce(pids, state.still, &resume/2), growers: growers}
  end

  defp suspend(pid, still) when is_map_key(still, pid), do: still

  defp suspend(pid, still) do
    :erlang.suspend_process(pid, [:asynchronous])
    Map.put(still, pid, true)
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
      slack_bytes: report.slack_bytes || 0
    }
  end

  defp now, do: System.monotonic_time(:millisecond)
end
