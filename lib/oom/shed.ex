defmodule OOM.Shed do
  @moduledoc false
  # Supervisors that give back a share of their children at once (`shed:`), rather than one victim
  # after the other: of 10,000 connections half, before the level is critical. It is the guard's own
  # order: a supervisor is asked when one of its children would be the next victim, and gives of
  # those that are worth as little.
  #
  # In a process of its own, beside the guard, who waits for nothing.

  use GenServer

  alias OOM.{Kill, Level, Limits, Native, Pressure, Reporter, Snapshot, Tables, Tree, Workers}
  alias OOM.{Stillness, VictimQueue}

  @type order :: :newest | :largest
  @type share :: {:fraction, float(), order()} | nil

  # How often to look while the level is high, and how often one supervisor is asked: those it gave
  # back have left by then.
  @look_ms 100
  # The same at most, while memory stands still.
  @rest_ms 1_000
  @again_ms 1_000
  # Among so many of the next victims its children are looked for.
  @batch 64

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "The level has changed; by the guard, who does not wait."
  @spec level(OOM.level()) :: :ok
  def level(level) when level in [:high, :critical] do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  def level(_lower), do: :ok

  @doc "Who leaves of these, `{pid, bytes}`: at least one."
  @spec choose([{pid(), non_neg_integer()}], share()) :: [{pid(), non_neg_integer()}]
  def choose(workers, {:fraction, fraction, order}) do
    workers |> sort(order) |> Enum.take(ceil(length(workers) * fraction))
  end

  @doc """
  Whether it frees anything that they leave: as for a single victim, but on average. Of one that has
  just started nothing is known, and it counts for nothing: that one sibling was large for a moment
  while it started must not cost half of all.
  """
  @spec worth?([{pid(), non_neg_integer()}], non_neg_integer()) :: boolean()
  def worth?([], _min_victim_bytes), do: false
  def worth?(victims, min_victim_bytes), do: sum(victims) >= length(victims) * min_victim_bytes

  # The VM numbers processes in the order of their start, from 1 again after hundreds of millions.
  defp sort(workers, :newest), do: Enum.sort_by(workers, &elem(&1, 0), :desc)
  defp sort(workers, :largest), do: Enum.sort_by(workers, &elem(&1, 1), :desc)

  # The level may have changed while nobody was here.
  @impl true
  def init(nil), do: {:ok, look(%{timer: nil, asked: %{}, still: Stillness.new(@look_ms)})}

  @impl true
  def handle_info(:look, state) do
    _ = if state.timer, do: Process.cancel_timer(state.timer)
    {:noreply, look(%{state | timer: nil})}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp look(state) do
    if Level.number(OOM.level()) >= Level.number(:high) and Tables.config().kill do
      state = ask(state)
      still = Stillness.rest(state.still, OOM.snapshot(), @look_ms, @rest_ms)
      %{state | timer: Process.send_after(self(), :look, still.pause_ms), still: still}
    else
      %{state | timer: nil, asked: %{}}
    end
  end

  defp ask(state) do
    with watcher when watcher != nil <- Tables.watcher(),
         %{headroom_bytes: headroom} = report when is_integer(headroom) <-
           Native.watcher_report(watcher),
         need when need > 0 <- Pressure.need_bytes(Snapshot.from_report(report)) do
      now = System.monotonic_time(:millisecond)

      # Nobody leaves here on a figure that is too old to know: an idle one would for each that is.
      limits = VictimQueue.limits(need, @batch, now)
      limits = %{limits | late: :wait, fresh_ms: Limits.fresh_ms()}
      {victims, _why} = VictimQueue.choose(limits)

      for {supervisor, rank} <- victims |> Enum.map(&{&1.supervisor, &1.rank}) |> Enum.uniq(),
          share = share(supervisor),
          now - Map.get(state.asked, supervisor, now - @again_ms) >= @again_ms,
          reduce: state do
        state ->
          shed(supervisor, rank, share, report, now)
          put_in(state.asked[supervisor], now)
      end
    else
      _ -> state
    end
  end

  defp share(nil), do: nil
  defp share(supervisor), do: Tree.options(supervisor)[:shed]

  # It goes through all workers to find who leaves, so also where nobody does it is not asked again
  # at the next look.
  defp shed(supervisor, rank, share, report, now) do
    %{grace_ms: grace_ms, min_victim_bytes: min_victim_bytes} = Tables.config()
    workers = Workers.of(supervisor, rank)
    leaving = choose(workers, share)

    if worth?(leaving, min_victim_bytes) do
      for {pid, bytes} <- leaving, do: Kill.begin(pid, supervisor, bytes, now, grace_ms)
      Reporter.shed(supervisor, length(leaving), length(workers), sum(leaving), report)
    end
  end

  defp sum(victims), do: victims |> Enum.map(&elem(&1, 1)) |> Enum.sum()
end
