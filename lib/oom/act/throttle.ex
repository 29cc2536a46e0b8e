defmodule OOM.Throttle do
  @moduledoc false
  # Slows the workers that grow, in slices, while growth would reach the floor soon: they stand still
  # for up to 40 ms and run for 1 ms or more, so that growth fits the time that exact figures, a trim
  # and a decision take. A legitimate load goes through, a little later; a leak arrives at the floor
  # slowly. While workers stand still they answer at once: each stand reads their figures anew.
  #
  #   * At first all that may be killed stand still for a moment, and are read. Those that have not
  #     grown go on at once, and are left alone from then on.
  #   * How long the others run follows from what the last run took: an eighth of what is left above
  #     the floor may be taken in a turn.
  #   * A worker whose next step (OOM.Steps) does not fit does not run together with others.
  #   * Where memory grows although all that are known to grow stand still, all stand again. Where it
  #     grows in nobody's figures while all stand, the growth is none of theirs, and the throttle ends.
  #
  # `suspend_process/2` is meant for debugging, because others may wait for what is suspended. So
  # nobody stands for longer than 50 ms at a stretch, and supervisors and protected workers never do.
  # Nothing is lost: state and messages are kept, and an exit signal still ends a suspended process.
  #
  # Whoever suspends must end the suspension, and the VM ends it when he ends: so it is a process of
  # its own, which also ends with the guard. It needs nobody to go on, and ends by itself when the
  # workers, let run, do not grow towards the floor any more.

  alias OOM.{Evidence, Guard, Limits, Native, Owned, Probe, Steps, VictimQueue, Workers}

  # The stand and, after a run of at least 1 ms, the turn; below 50 ms with what the schedulers add.
  @stand_ms 40
  @run_ms 1
  # A run this long is no throttle.
  @free_ms 100
  # Once all that had begun is over (a turn of a process, a small collection), memory stands still.
  @settle_ms 6
  # Part of what is left above the floor that one turn may take.
  @share 8
  # Whom the first stand takes in.
  @line 1_000
  @of_each_rank 400
  # Probes at a time. One may be held up by a worker in a long collection; the others go on.
  @probes 4
  # So many turns without growth towards the floor, and it ends.
  @calm_turns 3
  # So many stands of all in which memory grew on, and in nobody's figures: the growth is none of theirs.
  @foreign_turns 3
  # Where the growth of known growers does not explain all, all stand again in each of so many turns.
  @all_turns 4
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
      # who is known to grow; nil until the first look
      growers: nil,
      run_ms: @run_ms,
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

  # -- All that grow, or all that may, stand still and are read.

  defp stand(%{growers: growers} = state) do
    line = if growers == nil, do: VictimQueue.line(@line, @of_each_rank), else: Map.keys(growers)
    began_ms = now()
    state = %{state | still: Enum.reduce(line, state.still, &suspend/2)}
    look = look(line)

    with {:ok, state} <- wait(state, began_ms + @settle_ms, nil),
         settled = report(state),
         {:ok, state} <- wait(state, began_ms + @stand_ms, look),
         state = sort(line, settled, report(state), state),
         send_look(),
         {:ok, state} <- wait(state, began_ms + @stand_ms, nil) do
      {:ok, state}
    end
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

  # Who grows, by the figures there are now. Those who do not are let go.
  defp sort(line, settled, now, state) do
    grown = for pid <- line, row = Workers.lookup(pid), do: {pid, Evidence.grown_bytes(row)}
    most = grown |> Enum.map(&elem(&1, 1)) |> Enum.max(fn -> 0 end)
    growers = for {pid, bytes} <- grown, Evidence.grower?(bytes, most), into: %{}, do: {pid, true}
    # Who does not answer may be at it.
    mute = for pid <- line, silent?(pid), into: %{}, do: {pid, true}
    growers = Map.merge(growers, mute)

    grew_on? = unexplained?(settled, now)
    foreign? = state.growers == nil and growers == %{} and grew_on?
    all? = growers == %{} or (grew_on? and rem(state.turns, @all_turns) == 0)

    %{
      resume_others(state, growers)
      | growers: if(all?, do: nil, else: growers),
        foreign: if(foreign?, do: state.foreign + 1, else: 0)
    }
  end

  defp silent?(pid) do
    case Workers.lookup(pid) do
      {_, _, _, sampled, state, _, _, _, _} ->
        state in [:new, :stale] or now() - sampled > Limits.fresh_ms()

      nil ->
        false
    end
  end

  defp unexplained?(%{working_set_bytes: before}, %{working_set_bytes: now}),
    do: now - before > @noise_bytes

  defp unexplained?(_unknown, _report), do: false

  defp resume_others(state, growers) do
    still = for {pid, _} <- state.still, not is_map_key(growers, pid), do: pid
    %{state | still: Enum.reduce(still, state.still, &resume/2)}
  end

  # -- They run: all together, or where their steps do not fit at once, group by group.

  defp go(state) do
    before = report(state)
    began_ms = now()

    with {:ok, state} <- groups(grouped(Map.keys(state.still), before), state) do
      {:ok, judged(state, before, report(state), max(now() - began_ms, 1))}
    end
  end

  defp groups([], state), do: {:ok, state}

  defp groups([group | rest], state) do
    state = %{state | still: Enum.reduce(group, state.still, &resume/2)}

    with {:ok, state} <- wait(state, now() + state.run_ms, nil) do
      still = if rest == [], do: state.still, else: Enum.reduce(group, state.still, &suspend/2)
      groups(rest, %{state | still: still})
    end
  end

  # So many at a time that the steps of those that run at once fit; nobody waits for ever for one that
  # fits nowhere.
  defp grouped(pids, %{headroom_bytes: headroom, critical_headroom_bytes: floor})
       when is_integer(headroom) do
    room = max(headroom - div(floor, 2), 0)
    {large, small} = Enum.split_with(pids, &(Steps.bytes_of(&1) * 2 > room))
    groups = for pid <- large, do: [pid]
    if small == [], do: groups, else: [small | groups]
  end

  defp grouped(pids, _unknown), do: [pids]

  # What the run took says how long the next one may be, and whether there is need of it.
  defp judged(state, %{working_set_bytes: before}, %{headroom_bytes: headroom} = report, ran_ms)
       when is_integer(before) and is_integer(headroom) do
    rate = max(report.working_set_bytes - before, 0) / ran_ms
    distance = max(headroom - report.critical_headroom_bytes, 0)
    run_ms = if rate > 0, do: trunc(distance / @share / rate), else: state.run_ms * 4
    run_ms = run_ms |> min(state.run_ms * 4) |> max(@run_ms) |> min(@free_ms)
    calm? = rate == 0 or distance / rate > Limits.throttle_ms()
    %{state | run_ms: run_ms, calm: if(calm?, do: state.calm + 1, else: 0)}
  end

  defp judged(state, _unknown, _report, _ran_ms), do: %{state | calm: state.calm + 1}

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
    growers = if state.growers, do: Map.drop(state.growers, pids)
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

  defp report(state), do: Native.watcher_report(state.watcher)
  defp send_look, do: Guard.look()
  defp now, do: System.monotonic_time(:millisecond)
end
