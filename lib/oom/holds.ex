defmodule OOM.Holds do
  @moduledoc false
  # Brings held children back: one at a time, when the level is normal and they fit. The holds
  # themselves are in a table that outlives this process.

  use GenServer

  alias OOM.{Hold, Snapshot, Tables, Victims}

  # How often to look while anything is held. Also the least time between two returns, in which
  # the watcher sees what the first one did.
  @tick_ms 10
  # While nothing is held, to forget what has become stable.
  @idle_ms 1_000
  # A returned worker needs time to grow back to the size it was killed at; until then its bytes
  # are booked. One that takes longer than this is seen coming by the watcher.
  @booking_ms 1_000

  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @typedoc "What the strategy takes along, in start order, and whether each ran until now."
  @type unit :: [{id :: term(), ran? :: boolean()}]

  @doc """
  `pid` was killed, and those of the unit that ran are down with it. Others of the unit may be held
  already; they come back together. Called in the supervisor, or by whoever acts for it.

  Written into the table here and now, so that no crash of this module's process can lose it.

  Options: `:backoff`, by default that of the configuration; `:return`, see `t:OOM.Hold.return/0`.
  """
  @spec hold(pid(), term(), unit(), pid(), keyword()) :: :ok
  def hold(supervisor, id, unit, pid, options) do
    hold =
      lookup({supervisor, id}) ||
        %Hold{
          supervisor: supervisor,
          id: id,
          ids: [],
          backoff: options[:backoff] || Tables.config().backoff
        }

    others = overlapping(hold, unit)
    members = Enum.map(unit, &elem(&1, 0))
    for other <- others, do: replace(other, Hold.without(other, members))

    held = Enum.flat_map([hold | others], &if(&1.state == :running, do: [], else: &1.ids))
    ids = for {id, ran?} <- unit, ran? or id in held, do: id
    bytes = Enum.reduce(others, Victims.bytes(pid), &(&1.bytes + &2))

    %{hold | ids: ids, return: Keyword.get(options, :return, :restart_child)}
    |> Hold.absorb(others)
    |> Hold.killed(bytes, now(), &:rand.uniform/0)
    |> store()

    wake(supervisor)
  end

  @doc """
  Called in the supervisor: the user has decided about this child. `alone?` tells that the
  strategy takes no others along.
  """
  @spec forget(pid(), term(), boolean()) :: :ok
  def forget(supervisor, id, alone?) do
    holds = if alone?, do: List.wrap(lookup({supervisor, id})), else: all(supervisor)

    for %Hold{state: :held} = hold <- holds,
        id in hold.ids,
        do: replace(hold, Hold.without(hold, [id]))

    :ok
  end

  @doc "How many children are held at the moment."
  @spec count() :: non_neg_integer()
  def count do
    :ets.select_count(__MODULE__, [{{:_, %{state: :"$1"}}, [{:"/=", :"$1", :running}], [true]}])
  end

  @impl true
  def init(nil) do
    state = %{monitors: %{}, releasing: nil, bookings: [], timer: nil, checked_ms: now()}
    # After a crash: take up what the table knows. A release under way is asked for again, and
    # its supervisor answers `:running` where it had succeeded.
    state =
      Enum.reduce(all(), state, fn hold, state ->
        if hold.state == :releasing, do: store(%{hold | state: :held})
        monitor(state, hold.supervisor)
      end)

    {:ok, schedule(state, @tick_ms)}
  end

  @impl true
  def handle_info({:held, supervisor}, state),
    do: {:noreply, state |> monitor(supervisor) |> schedule(@tick_ms)}

  def handle_info(:tick, state) do
    state = %{state | timer: nil} |> forget_stable() |> release_next()
    {:noreply, schedule(state, if(count() > 0, do: @tick_ms, else: @idle_ms))}
  end

  def handle_info({:released, key, {:ok, pid}}, state) do
    with %Hold{state: :releasing} = hold <- lookup(key), do: renamed(hold, pid)
    {:noreply, state}
  end

  def handle_info({:released, key, result}, state) do
    # Unless it was killed again in the meantime.
    with %Hold{state: :releasing} = hold <- lookup(key), do: released(hold, result)
    {:noreply, state}
  end

  def handle_info({:DOWN, ref, :process, _pid, _}, %{releasing: {ref, key}} = state) do
    # A releaser that died without a word, and its supervisor with it or not: try again later.
    with %Hold{state: :releasing} = hold <- lookup(key),
         do: store(Hold.failed(hold, now(), &:rand.uniform/0))

    {:noreply, schedule(%{state | releasing: nil}, @tick_ms)}
  end

  def handle_info({:DOWN, _ref, :process, pid, _}, state) do
    # The supervisor is gone, and its next incarnation starts all its children itself.
    :ets.match_delete(__MODULE__, {{pid, :_}, :_})
    {:noreply, %{state | monitors: Map.delete(state.monitors, pid)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp release_next(%{releasing: nil} = state) do
    now = now()
    bookings = Enum.filter(state.bookings, fn {until, _} -> until > now end)
    state = %{state | bookings: bookings}

    with :normal <- OOM.level(),
         %Hold{} = hold <- Hold.next(all(), now, room(OOM.snapshot(), bookings)) do
      store(%{hold | state: :releasing})
      key = {hold.supervisor, hold.id}
      {_pid, ref} = spawn_monitor(__MODULE__, :release, [self(), hold])
      %{state | releasing: {ref, key}, bookings: [{now + @booking_ms, hold.bytes} | bookings]}
    else
      _ -> state
    end
  end

  defp release_next(state), do: state

  # Down to the first watermark, with what is free inside the VM, and less what others that have
  # just come back will need.
  defp room(%Snapshot{headroom_bytes: nil}, _bookings), do: nil

  defp room(%Snapshot{} = snapshot, bookings) do
    booked = bookings |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    slack = snapshot.slack_bytes || 0
    snapshot.headroom_bytes + slack - snapshot.elevated_headroom_bytes - booked
  end

  # In a process of its own: a start may take as long as it likes.
  @doc false
  @spec release(pid(), Hold.t()) :: term()
  def release(holds, %Hold{supervisor: supervisor, id: id} = hold),
    do: send(holds, {:released, {supervisor, id}, start(hold.return, hold)})

  defp start({:start_child, request}, hold) do
    case GenServer.call(hold.supervisor, {:start_child, request}, :infinity) do
      {:ok, pid} when is_pid(pid) -> {:ok, pid}
      {:ok, pid, _info} when is_pid(pid) -> {:ok, pid}
      {:error, _} -> :failed
      # Ignored: it stays down.
      _ -> :ok
    end
  end

  defp start(:restart_child, %Hold{supervisor: supervisor} = hold) do
    Enum.reduce_while(hold.ids, :ok, fn id, :ok ->
      # One that has started may have been killed again, and its hold then tells of all.
      with %Hold{state: :releasing} <- lookup({supervisor, hold.id}),
           result = :supervisor.restart_child(supervisor, id),
           false <- failed?(result) do
        {:cont, :ok}
      else
        true -> {:halt, :failed}
        _ -> {:halt, :ok}
      end
    end)
  end

  defp failed?({:error, reason}), do: reason not in [:running, :restarting, :not_found]
  defp failed?(_), do: false

  defp released(hold, :ok), do: store(Hold.released(hold, now()))

  defp released(hold, :failed),
    do: store(Hold.failed(hold, now(), &:rand.uniform/0))

  # Under its new pid, so that a relapse finds it; it may have had one already.
  defp renamed(hold, pid) do
    case lookup({hold.supervisor, pid}) do
      nil -> hold |> Hold.renamed(pid) |> Hold.released(now()) |> store()
      again -> again |> Hold.relapsed(hold, now(), &:rand.uniform/0) |> store()
    end

    :ets.delete(__MODULE__, {hold.supervisor, hold.id})
  end

  defp forget_stable(%{checked_ms: checked} = state) do
    if now() - checked >= @idle_ms, do: forget_stable(state, now()), else: state
  end

  defp forget_stable(state, now) do
    stable_ms = Tables.config().stable_ms

    for hold <- all(), Hold.stable?(hold, now, stable_ms) do
      :ets.delete(__MODULE__, {hold.supervisor, hold.id})
    end

    %{state | checked_ms: now}
  end

  # At most one timer: `due_ms` tells whether an earlier one is needed.
  defp schedule(state, delay_ms) do
    due = now() + delay_ms

    cond do
      :ets.info(__MODULE__, :size) == 0 -> state
      state.timer != nil and elem(state.timer, 1) <= due -> state
      true -> %{cancel(state) | timer: {Process.send_after(self(), :tick, delay_ms), due}}
    end
  end

  defp cancel(%{timer: nil} = state), do: state

  defp cancel(%{timer: {timer, _due}} = state) do
    Process.cancel_timer(timer)
    %{state | timer: nil}
  end

  defp monitor(state, supervisor) do
    monitors = Map.put_new_lazy(state.monitors, supervisor, fn -> Process.monitor(supervisor) end)
    %{state | monitors: monitors}
  end

  # Those of the same supervisor that share a child with the unit.
  defp overlapping(_hold, [_alone]), do: []

  defp overlapping(hold, unit) do
    for other <- all(hold.supervisor),
        other.id != hold.id and other.state != :running,
        Enum.any?(unit, fn {id, _} -> id in other.ids end),
        do: other
  end

  defp replace(hold, nil), do: :ets.delete(__MODULE__, {hold.supervisor, hold.id})
  defp replace(_hold, hold), do: store(hold)

  defp store(hold), do: :ets.insert(__MODULE__, {{hold.supervisor, hold.id}, hold})
  defp all, do: :ets.select(__MODULE__, [{{:_, :"$1"}, [], [:"$1"]}])

  defp all(supervisor) do
    :ets.select(__MODULE__, [{{{supervisor, :_}, :"$1"}, [], [:"$1"]}])
  rescue
    ArgumentError -> []
  end

  defp lookup(key) do
    case :ets.lookup(__MODULE__, key) do
      [{_, hold}] -> hold
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  defp wake(supervisor) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:held, supervisor})
    :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
