defmodule OOM.Shed do
  @moduledoc false
  # Load shedding (`shed:`): a supervisor gives back a share of its children at once, rather than one victim
  # after another: half of 10,000 connections, before the level is critical. Shedding follows the guard's
  # order: a supervisor's turn comes when a child would be the next victim, and children of the same rank
  # leave.
  #
  # A process of its own, because the guard waits for nothing.

  use GenServer

  alias OOM.{Kill, Level, Limits, Native, Pressure, Reporter, Snapshot, Tables, Tree, Workers}
  alias OOM.{Stillness, VictimQueue}

  @type order :: :newest | :largest
  @type share :: {:fraction, float(), order()} | nil

  # The pause between looks from the level `:high` on.
  @look_ms 100
  # The longest pause, while memory stands still.
  @rest_ms 1_000
  # The pause between two turns of one supervisor: the children shed before have left by then.
  @again_ms 1_000
  # A look takes so many of the next victims.
  @batch 64

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options),
    do: GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: [priority: :high])

  @doc "Starts the looks from the level `:high` on. Sent by the guard, without waiting."
  @spec level(OOM.level()) :: :ok
  def level(level) when level in [:high, :critical] do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, :look)
    :ok
  end

  def level(_lower), do: :ok

  @doc "Returns the share of `{pid, bytes}` to shed: at least one worker."
  @spec choose([{pid(), non_neg_integer()}], share()) :: [{pid(), non_neg_integer()}]
  def choose(workers, {:fraction, fraction, order}) do
    workers |> sort(order) |> Enum.take(ceil(length(workers) * fraction))
  end

  @doc """
  Tells whether the workers to shed hold `min_victim_bytes` each on average. A worker just started counts
  as 0 bytes, being unknown: a single child, large for a moment during the start, must not cost half of all
  children.
  """
  @spec worth?([{pid(), non_neg_integer()}], non_neg_integer()) :: boolean()
  def worth?([], _min_victim_bytes), do: false
  def worth?(victims, min_victim_bytes), do: sum(victims) >= length(victims) * min_victim_bytes

  # The VM numbers processes in the order of their start, from 1 again after hundreds of millions.
  defp sort(workers, :newest), do: Enum.sort_by(workers, &elem(&1, 0), :desc)
  defp sort(workers, :largest), do: Enum.sort_by(workers, &elem(&1, 1), :desc)

  # The level may have changed before this start.
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
      still = Stillness.rest(state.still, Snapshot.now(), @look_ms, @rest_ms)
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

      # No worker is shed for a stale figure: for each, an idle worker would leave.
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

  # Finding the children scans the table of workers. So the supervisor's next turn waits for @again_ms even
  # where no child leaves.
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
