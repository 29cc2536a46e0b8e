defmodule OOM.Reporter do
  @moduledoc false
  # Reports to the log, and calls `on_exhausted`. The reporter works at normal priority and in its own time;
  # the guard only sends a message. The reporter gathers kills for a moment and logs them in a single line,
  # with the memory freed: a thousand victims must not become a thousand reports.

  use GenServer

  import OOM.Bytes, only: [mib: 1]

  require OOM.Log, as: Log

  alias OOM.{Bookkeeper, Priority, Snapshot, Usage, WorkerName}
  alias OOM.Reporter.{Exhausted, LedgerWords}

  # Long enough for a round to end and its memory to be back.
  @gather_ms 200
  @named 5
  @problems 100

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @spec started(map() | nil, OOM.Config.t()) :: :ok
  def started(report, config), do: tell({:started, report, config})

  @spec level(OOM.level(), Snapshot.t()) :: :ok
  def level(from, snapshot), do: tell({:level, from, snapshot})

  @spec killed([OOM.VictimQueue.victim()], pos_integer(), map()) :: :ok
  def killed(victims, need_bytes, report), do: tell({:killed, victims, need_bytes, report})

  @spec shed(pid(), non_neg_integer(), non_neg_integer(), non_neg_integer(), map()) :: :ok
  def shed(supervisor, count, all, bytes, report),
    do: tell({:shed, supervisor, count, all, bytes, report})

  @doc "Reports a child not started by its supervisor. Sent by the supervisor."
  @spec turned_away(pid(), term()) :: :ok
  def turned_away(supervisor, id), do: tell({:turned_away, supervisor, id})

  @doc "Reports a victim spared because a process of this higher rank would have ended, too."
  @spec spared(pid(), term(), Priority.rank()) :: :ok
  def spared(pid, id, rank), do: tell({:spared, pid, id, rank})

  @doc "Reports a victim spared because it is being started just now."
  @spec starting(pid()) :: :ok
  def starting(pid), do: tell({:starting, pid})

  @doc "Reports processes that were ended because they outlived the victims that had started them."
  @spec leftovers(pos_integer(), pos_integer()) :: :ok
  def leftovers(count, victims), do: tell({:leftovers, count, victims})

  @doc "Reports growing workers that cannot be killed, and stay suspended at the floor until there is room."
  @spec kept([pid()]) :: :ok
  def kept(pids), do: tell({:kept, pids})

  @spec exhausted(map(), OOM.on_exhausted()) :: :ok
  def exhausted(report, callback), do: tell({:exhausted, report, callback})

  @spec problem(String.t()) :: :ok
  def problem(message), do: tell({:problem, message})

  @impl true
  def init(nil),
    do: {:ok, %{round: nil, away: {0, []}, spared: {0, []}, problems: MapSet.new()}}

  @impl true
  def handle_cast({:started, report, config}, state) do
    started_message(report, config)
    {:noreply, state}
  end

  def handle_cast({:level, from, snapshot}, state) do
    level = if snapshot.level in [:high, :critical], do: :warning, else: :info
    Log.log(level, "OOM: memory #{from} -> #{snapshot.level}: #{describe(snapshot)}")
    {:noreply, state}
  end

  def handle_cast({:killed, victims, need, report}, %{round: nil} = state) do
    Process.send_after(self(), :tell_round, @gather_ms)
    {:noreply, %{state | round: %{victims: victims, need: need, report: report}}}
  end

  def handle_cast({:killed, victims, _need, _report}, %{round: round} = state),
    do: {:noreply, %{state | round: %{round | victims: round.victims ++ victims}}}

  def handle_cast({:shed, supervisor, count, all, bytes, report}, state) do
    Log.warning(
      "OOM: #{count} of #{all} children of #{name(supervisor)} were shed, holding #{mib(bytes)}: " <>
        "headroom was #{mib(report.headroom_bytes)} of #{mib(report.limit_bytes)}" <>
        growth(report.growth_bytes_per_s)
    )

    {:noreply, state}
  end

  def handle_cast({:turned_away, supervisor, id}, %{away: {count, named}} = state) do
    _ = if count == 0, do: Process.send_after(self(), :tell_away, @gather_ms)
    named = if count < @named, do: [{supervisor, id} | named], else: named
    {:noreply, %{state | away: {count + 1, named}}}
  end

  def handle_cast({:spared, pid, id, rank}, %{spared: {count, named}} = state) do
    _ = if count == 0, do: Process.send_after(self(), :tell_spared, @gather_ms)
    named = if count < @named, do: [{pid, id, rank} | named], else: named
    {:noreply, not_killed(pid, %{state | spared: {count + 1, named}})}
  end

  # Whoever asked for the start hears nothing of it, and the choice comes again.
  def handle_cast({:starting, pid}, state), do: {:noreply, not_killed(pid, state)}

  def handle_cast({:leftovers, count, victims}, state) do
    Log.warning(
      "OOM: ended #{count} processes that had been started by #{victims} victims and outlived the grace"
    )

    {:noreply, state}
  end

  def handle_cast({:kept, pids}, state) do
    Log.warning(
      "OOM: #{length(pids)} workers that grow stand still until there is room, as a more important " <>
        "process would end with them by a link or a call: " <>
        (pids |> Enum.take(@named) |> Enum.map_join(", ", &name/1))
    )

    {:noreply, state}
  end

  def handle_cast({:exhausted, report, callback}, state) do
    snapshot = Snapshot.from_report(report)
    snapshot = %{snapshot | ledger: Bookkeeper.ledger(snapshot)}

    Log.error(
      "OOM: exhausted: nothing is left that would help, no more workers are killed. " <>
        describe(snapshot) <> LedgerWords.of(snapshot.ledger)
    )

    _ = Exhausted.run(callback, snapshot)
    {:noreply, state}
  end

  # Each problem once; a file that flickers must not fill the log, nor the memory.
  def handle_cast({:problem, message}, %{problems: problems} = state) do
    if MapSet.member?(problems, message) or MapSet.size(problems) >= @problems do
      {:noreply, state}
    else
      Log.warning("OOM: " <> message)
      {:noreply, %{state | problems: MapSet.put(problems, message)}}
    end
  end

  # A spared worker was reported as a victim before.
  defp not_killed(pid, %{round: %{victims: victims} = round} = state),
    do: %{state | round: %{round | victims: Enum.reject(victims, &(&1.pid == pid))}}

  defp not_killed(_pid, state), do: state

  @impl true
  def handle_info(:tell_round, %{round: %{victims: []}} = state),
    do: {:noreply, %{state | round: nil}}

  def handle_info(:tell_round, %{round: round} = state) do
    Log.warning(fn -> round_message(round, Snapshot.now()) end)
    {:noreply, %{state | round: nil}}
  end

  def handle_info(:tell_away, %{away: {count, named}} = state) do
    names =
      named
      |> Enum.reverse()
      |> Enum.map_join(", ", fn {supervisor, id} -> "#{id(id)} of #{name(supervisor)}" end)

    Log.warning(
      "OOM: not started while memory is critical, and held: #{count} children, such as #{names}"
    )

    {:noreply, %{state | away: {0, []}}}
  end

  def handle_info(:tell_spared, %{spared: {count, named}} = state) do
    names =
      named
      |> Enum.reverse()
      |> Enum.map_join(", ", fn {pid, id, rank} ->
        id = if id, do: " (#{id(id)})", else: ""
        "#{name(pid)}#{id} for one of priority #{inspect(Priority.name(rank))}"
      end)

    Log.warning(
      "OOM: not killed, as a more important process would have ended with it by a link or a call: " <>
        "#{count} workers, such as #{names}"
    )

    {:noreply, %{state | spared: {0, []}}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp started_message(%{source: source} = report, _config) when source != nil,
    do: Log.info("OOM: watching #{describe(Snapshot.from_report(report))}")

  defp started_message(_report, _config) do
    Log.warning(
      "OOM: no limit was found (source: :none); nothing is watched unless `config :oom, limit:` " <>
        "is set"
    )
  end

  defp round_message(%{victims: victims, need: need, report: report}, after_snapshot) do
    # A figure may be an estimate; nobody holds more than there is.
    bytes = victims |> Enum.map(& &1.bytes) |> Enum.sum() |> min(report.working_set_bytes)
    freed = freed(report.rss_bytes, after_snapshot.rss_bytes)
    ranks = victims |> Enum.frequencies_by(&Priority.name(&1.rank)) |> inspect()

    "OOM: killed #{length(victims)} of priority #{ranks} holding #{mib(bytes)}, to free " <>
      "#{mib(need)}: headroom was #{mib(report.headroom_bytes)} of #{mib(report.limit_bytes)}" <>
      growth(report.growth_bytes_per_s) <>
      "; resident memory has since #{freed}. " <> names(victims)
  end

  defp name(pid), do: inspect(Usage.name(pid) || pid)

  defp freed(before, now) when is_integer(before) and is_integer(now) and now <= before,
    do: "fallen by #{mib(before - now)}"

  defp freed(before, now) when is_integer(before) and is_integer(now),
    do: "grown by #{mib(now - before)}"

  defp freed(_before, _now), do: "changed by an unknown amount"

  defp growth(rate) when is_integer(rate) and rate > 0, do: ", growing by #{mib(rate)}/s"
  defp growth(_rate), do: ""

  defp names(victims) do
    largest = victims |> Enum.sort_by(&(-&1.bytes)) |> Enum.take(@named)

    "The largest: " <>
      Enum.map_join(largest, ", ", fn victim ->
        id = if victim.id, do: " (#{id(victim.id)})", else: ""

        "#{WorkerName.words(victim.pid, victim.name)}#{id}#{of(victim.supervisor)} #{mib(victim.bytes)}"
      end)
  end

  # A supervisor without a name says little.
  defp of(nil), do: ""

  defp of(supervisor) do
    case Usage.name(supervisor) do
      nil -> ""
      name -> " of #{inspect(name)}"
    end
  end

  defp id(id), do: inspect(id, limit: 5, printable_limit: 80)

  defp describe(%Snapshot{limit_bytes: nil}), do: "no limit known"

  defp describe(%Snapshot{} = snapshot) do
    "#{mib(snapshot.working_set_bytes)} of #{mib(snapshot.limit_bytes)} " <>
      "(#{snapshot.source}#{if snapshot.file, do: ", #{snapshot.file}"})" <>
      growth(snapshot.growth_bytes_per_s)
  end

  defp tell(message), do: GenServer.cast(__MODULE__, message)
end
