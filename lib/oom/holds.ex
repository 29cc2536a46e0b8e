defmodule OOM.Holds do
  @moduledoc false
  # Brings held children back: one at a time, as soon as there is room (OOM.Holds.Reservations), at any
  # level. A child without room for its longest backoff is tried alone. The holds are in a table that
  # outlives this process (OOM.Holds.Store); all further state is rebuilt from the table at start.
  # OOM.Holds.Down has the reports of supervisors on children that are down.

  use GenServer

  alias OOM.{Hold, RecentKills, Snapshot, Stillness, Tables}
  alias OOM.Holds.{Alarm, Queue, Release, Reservations, Store}

  # The least time between two returns, for the watcher to see the effect of the first.
  @tick_ms 10
  # The pause between looks while due holds wait for room, and the longest pause while memory stands still.
  # Such a wait may last days, so a look must cost next to nothing.
  @blocked_ms 100
  @rest_ms 400
  # A start slower than this no longer delays further returns; @slow of them at once do.
  @slow_ms 5_000
  @slow 8
  # The longest time a timer is set for.
  @longest_ms 86_400_000
  # The most holds to forget in one look.
  @forget 100
  # The longest time a stop of the application waits for held children to return.
  @stop_ms 2_000

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Returns the number of holds; a child and the siblings down with it are one hold."
  @spec count() :: non_neg_integer()
  def count, do: Tables.held()

  @doc """
  Releases a hold now, at any level, and forgets its past. Returns `{:error, reason}` where the supervisor
  could not start the child; the child is then held with its first backoff.
  """
  @spec release(Hold.key()) :: Release.result() | {:error, :not_held}
  def release(key), do: GenServer.call(__MODULE__, {:release, key}, :infinity)

  @doc "Tells this process that another process has changed the hold of this key."
  @spec changed(Hold.key()) :: :ok
  def changed(key) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:changed, key})
    :ok
  end

  @doc "Brings all waiting children back now, because the application ends."
  @spec let_go() :: :ok
  def let_go do
    holds = Store.all()
    Enum.each(holds, &Alarm.clear/1)
    Release.all(for(%Hold{state: :held} = hold <- holds, do: hold), @stop_ms)
  end

  @impl true
  def init(nil) do
    queue = Queue.new()
    Tables.put_held(queue.held)
    # The returns under way, by monitor: {key, since_ms, waiting callers}.
    state = %{
      queue: queue,
      monitors: %{},
      releases: %{},
      reserved: Reservations.new(),
      tick_ms: @tick_ms,
      still: Stillness.new(@blocked_ms),
      timer: nil
    }

    {:ok, Store.all() |> Enum.reduce(state, &take_up/2) |> schedule()}
  end

  # After a crash of this process. A releaser goes on, or has ended, as its monitor tells.
  defp take_up(hold, state) do
    state = monitor(state, hold.supervisor)

    if hold.state == :releasing do
      under_way({hold.releaser, Process.monitor(hold.releaser), hold}, state, [])
    else
      changed(Hold.key(hold), state)
    end
  end

  @impl true
  def handle_call({:release, key}, from, state) do
    case Enum.find(state.releases, fn {_ref, {other, _, _}} -> other == key end) do
      # The return is under way already.
      {ref, {key, since, callers}} ->
        {:noreply, put_in(state.releases[ref], {key, since, [from | callers]})}

      nil ->
        release_by_hand(key, from, state)
    end
  end

  @impl true
  def handle_info({:changed, key}, state), do: {:noreply, key |> changed(state) |> schedule()}

  def handle_info(:tick, state),
    do: {:noreply, %{state | timer: nil} |> forget_stable() |> release_next() |> schedule()}

  def handle_info({:DOWN, ref, :process, _pid, reason}, %{releases: releases} = state)
      when is_map_key(releases, ref) do
    {{key, _since, callers}, releases} = Map.pop!(releases, ref)

    # The releaser was cut short, perhaps along with the supervisor: try again later.
    _ =
      Store.update(key, fn
        %Hold{state: :releasing} = hold -> Release.failed(hold)
        other -> other
      end)

    result = with {:shutdown, {:released, result}} <- reason, do: result
    result = if result == :ok, do: :ok, else: error(result)
    for caller <- callers, do: GenServer.reply(caller, result)
    # The watcher sees the effect from now on: the next return comes at least @tick_ms later.
    state = cancel(%{state | releases: releases, tick_ms: @tick_ms})
    {:noreply, key |> changed(state) |> schedule()}
  end

  def handle_info({:DOWN, _ref, :process, pid, _}, state) do
    # The supervisor is gone, and its next incarnation starts all children itself.
    for hold <- Store.all(pid) do
      Alarm.clear(hold)
      _ = Store.update(Hold.key(hold), fn _ -> nil end)
      Queue.delete(state.queue, Hold.key(hold))
    end

    {:noreply, %{state | monitors: Map.delete(state.monitors, pid)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp error({:error, _} = error), do: error
  defp error(reason), do: {:error, reason}

  defp changed(key, state) do
    case Store.lookup(key) do
      nil ->
        Queue.delete(state.queue, key)
        state

      hold ->
        Queue.put(state.queue, hold, Tables.config().stable_ms)
        if hold.state == :given_up and not hold.told?, do: given_up(hold)
        state = if hold.state == :held, do: down_again(hold, state), else: state
        monitor(state, hold.supervisor)
    end
  end

  # The reserved room is free again. A child too large for any room is known at once.
  defp down_again(hold, state) do
    snapshot = Snapshot.now()
    if Reservations.never?(hold.bytes, snapshot), do: no_room(hold, snapshot)
    %{state | reserved: Reservations.drop(state.reserved, Hold.key(hold))}
  end

  # Reported once, until the child has lived for stable_ms.
  defp no_room(%Hold{no_room?: true}, _snapshot), do: :ok

  defp no_room(hold, snapshot) do
    {before, now} = Store.update(Hold.key(hold), &(&1 && %{&1 | no_room?: true}))
    if now != nil and not before.no_room?, do: Alarm.no_room(now, snapshot)
    :ok
  end

  defp given_up(%Hold{version: version} = hold) do
    Alarm.raise_for(hold)

    {_, now} =
      Store.update(Hold.key(hold), fn
        %Hold{version: ^version} = same -> %{same | told?: true}
        other -> other
      end)

    # The hold may have been released by hand in this very moment.
    unless match?(%Hold{state: :given_up}, now), do: Alarm.clear(hold)
  end

  defp release_by_hand(key, from, state) do
    before = Store.lookup(key)

    case Release.begin(key, &may_by_hand/1) do
      nil ->
        {:reply, {:error, :not_held}, state}

      release ->
        Alarm.clear(before)
        {:noreply, release |> under_way(state, [from]) |> schedule()}
    end
  end

  defp may_by_hand(%Hold{state: state} = hold) when state in [:held, :given_up],
    do: Hold.pardoned(hold)

  defp may_by_hand(_hold), do: nil

  defp release_next(state) do
    now = now()
    snapshot = Snapshot.now()
    state = %{state | reserved: Reservations.current(state.reserved, snapshot, now)}

    with false <- busy?(state.releases, now),
         true <- calm?(now),
         room = Reservations.room_bytes(state.reserved, snapshot),
         {key, queue} when key != nil <-
           Queue.next(state.queue, now, room, alone?(state, snapshot)),
         {_, _, hold} = release <- Release.begin(key, &if(&1.state == :held, do: &1)) do
      if room != nil and hold.bytes > room, do: no_room(hold, snapshot)
      under_way(release, %{state | queue: queue, tick_ms: @tick_ms}, [])
    else
      {nil, queue} -> blocked(%{state | queue: queue}, snapshot)
      _ -> %{state | tick_ms: @blocked_ms}
    end
  end

  defp blocked(state, snapshot) do
    still = Stillness.rest(state.still, snapshot, @blocked_ms, @rest_ms)
    %{state | still: still, tick_ms: still.pause_ms}
  end

  # No child comes back while victims of the guard are on their way out: the memory free now is not the
  # final figure.
  defp calm?(now), do: not RecentKills.on_their_way?(now)

  # A child without room starts only below :critical, while memory does not grow and no return is under way
  # or settling.
  defp alone?(state, snapshot) do
    map_size(state.releases) == 0 and Reservations.none?(state.reserved) and
      snapshot.level != :critical and not Reservations.grows?(snapshot)
  end

  defp busy?(releases, now) do
    map_size(releases) >= @slow or
      Enum.any?(releases, fn {_ref, {_, since, _}} -> now - since < @slow_ms end)
  end

  defp under_way({_pid, ref, hold}, state, callers) do
    now = now()
    Queue.put(state.queue, hold, Tables.config().stable_ms)

    %{
      state
      | releases: Map.put(state.releases, ref, {Hold.key(hold), now, callers}),
        reserved:
          Reservations.add(state.reserved, Hold.key(hold), hold.bytes, Snapshot.now(), now)
    }
  end

  defp forget_stable(state), do: forget_stable(state, now(), @forget)

  defp forget_stable(state, _now, 0), do: state

  defp forget_stable(state, now, count) do
    case Queue.stable(state.queue, now) do
      nil ->
        state

      key ->
        stable_ms = Tables.config().stable_ms
        stable = &if(&1 && Hold.stable?(&1, now, stable_ms), do: nil, else: &1)
        {before, left} = Store.update(key, stable)
        Alarm.clear(before, left)
        forget_stable(changed(key, state), now, count - 1)
    end
  end

  # At most one timer, for the next hold due or stable.
  defp schedule(state) do
    case Queue.next_ms(state.queue) do
      nil -> cancel(state)
      next_ms -> schedule(state, max(next_ms, now() + state.tick_ms))
    end
  end

  defp schedule(%{timer: {_timer, at_ms}} = state, due_ms) when at_ms <= due_ms, do: state

  defp schedule(state, due_ms) do
    due_ms = min(due_ms, now() + @longest_ms)
    timer = Process.send_after(self(), :tick, due_ms, abs: true)
    %{cancel(state) | timer: {timer, due_ms}}
  end

  defp cancel(%{timer: nil} = state), do: state

  defp cancel(%{timer: {timer, _due}} = state) do
    _ = Process.cancel_timer(timer)
    %{state | timer: nil}
  end

  defp monitor(state, supervisor) do
    monitors = Map.put_new_lazy(state.monitors, supervisor, fn -> Process.monitor(supervisor) end)
    %{state | monitors: monitors}
  end

  defp now, do: System.monotonic_time(:millisecond)
end
