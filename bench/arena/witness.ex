defmodule Arena.Witness do
  @moduledoc false
  # An observer independent of OOM: watches workers come and go, by its own monitors, and the
  # level, by a look each few milliseconds. Runs at top priority and reports over and over,
  # because the VM may be gone the next moment.

  use GenServer

  alias Arena.{Asker, Prober, Say}

  @look_ms 5
  @say_every 10
  # A trace names processes that have run for longer at a stretch.
  @long_ms 20
  @memory {:shutdown, :memory_pressure}
  # A :low worker alive so long after the death of a :normal worker was not on its way out then.
  @outlived_ms 500
  # A death so soon after the first victim belongs to the same shortage.
  @round_ms 250

  def start_link(trace?),
    do: GenServer.start_link(__MODULE__, trace?, name: __MODULE__, spawn_opt: [priority: :max])

  @doc "Registers a worker; called in its `init/1`. Does not wait."
  def up(kind, id), do: send(__MODULE__, {:up, {kind, id}, self()})

  @doc "Notes an innocent without an answer in time."
  def timed_out(id), do: send(__MODULE__, {:timed_out, id})

  @doc "Notes the working set when the culprits begin."
  def filled(bytes), do: send(__MODULE__, {:filled, bytes})

  @doc "Returns everything seen so far."
  def facts, do: GenServer.call(__MODULE__, :facts, 60_000)

  @impl true
  def init(trace?) do
    Process.send_after(self(), :look, @look_ms)
    # Reports of processes holding a scheduler for long.
    if trace?, do: :erlang.system_monitor(self(), long_schedule: @long_ms, long_gc: @long_ms)

    {:ok,
     %{
       trace?: trace?,
       begun: now(),
       looks: 0,
       # pid => {kind, id}
       alive: %{},
       low_kills: 0,
       low_caps: 0,
       other: [],
       normal_deaths: 0,
       # innocents that died or did not answer in time, each once
       lost: MapSet.new(),
       timed_out: MapSet.new(),
       filled_bytes: 0,
       inversions: 0,
       exhausted: 0,
       level: :normal,
       critical_at: nil,
       relief_ms: nil,
       # the canary's worst answer before the first critical sample, before anybody acted
       calm_us: 0,
       # {bytes of all victims of the first round, deficit at the trigger, when}
       round: nil
     }}
  end

  @impl true
  def handle_call(:facts, _from, state), do: {:reply, facts(state), state}

  @impl true
  def handle_info({:up, name, pid}, state) do
    Process.monitor(pid)
    {:noreply, %{state | alive: Map.put(state.alive, pid, name)}}
  end

  def handle_info({:DOWN, _ref, :process, pid, reason}, state) do
    {name, alive} = Map.pop!(state.alive, pid)
    {:noreply, ended(name, reason, %{state | alive: alive})}
  end

  # From OOM.Reporter's ear; see Arena.Ear.
  def handle_info({:killed, bytes, deficit}, %{round: nil} = state),
    do: {:noreply, %{state | round: {bytes, deficit, now()}}}

  def handle_info({:killed, more, _}, %{round: {bytes, deficit, since}} = state) do
    if now() - since < @round_ms,
      do: {:noreply, %{state | round: {bytes + more, deficit, since}}},
      else: {:noreply, state}
  end

  def handle_info({:filled, bytes}, state), do: {:noreply, %{state | filled_bytes: bytes}}

  def handle_info({:timed_out, id}, state) do
    Say.say(:timed_out, who: id)
    timed_out = MapSet.put(state.timed_out, id)
    {:noreply, %{state | timed_out: timed_out, lost: MapSet.put(state.lost, id)}}
  end

  def handle_info(:exhausted, state), do: {:noreply, %{state | exhausted: state.exhausted + 1}}

  def handle_info({:outlived, pids}, state) do
    inverted? = Enum.any?(pids, &is_map_key(state.alive, &1))
    {:noreply, if(inverted?, do: %{state | inversions: state.inversions + 1}, else: state)}
  end

  def handle_info(:look, state) do
    Process.send_after(self(), :look, @look_ms)
    snapshot = OOM.snapshot()
    if state.trace? and rem(state.looks, 2) == 0, do: trace(snapshot, state)
    state = level(snapshot, %{state | looks: state.looks + 1})
    if rem(state.looks, @say_every) == 0, do: Say.say(:facts, facts(state))
    {:noreply, state}
  end

  def handle_info({:monitor, who, what, how}, state) do
    Say.say(what, ms: now() - state.begun, who: who, how: how)
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # The first time only: from critical to headroom above the watermark the kills aim at.
  defp level(%{level: :critical}, %{critical_at: nil} = state),
    do: %{state | critical_at: now(), calm_us: Prober.worst_us()}

  defp level(snapshot, %{critical_at: at, relief_ms: nil} = state) when at != nil do
    if enough?(snapshot),
      do: %{state | relief_ms: now() - at},
      else: state
  end

  defp level(_snapshot, state), do: state

  defp enough?(%{high_headroom_bytes: high} = snapshot),
    do: snapshot.headroom_bytes + (snapshot.slack_bytes || 0) >= high

  # Without such a watermark.
  defp enough?(snapshot), do: snapshot.level in [:normal, :elevated]

  defp ended({:low, _}, @memory, state), do: %{state | low_kills: state.low_kills + 1}
  # By its max_heap_size, or by a kill after its time to leave.
  defp ended({:low, _}, :killed, state), do: %{state | low_caps: state.low_caps + 1}

  defp ended({:normal, id} = name, reason, state) do
    low = for {pid, {:low, _}} <- state.alive, do: pid
    Process.send_after(self(), {:outlived, low}, @outlived_ms)
    state = %{state | lost: MapSet.put(state.lost, id)}
    other(name, reason, %{state | normal_deaths: state.normal_deaths + 1})
  end

  defp ended(name, reason, state), do: other(name, reason, state)

  defp other(name, reason, state) do
    reason = :io_lib.format(~c"~0P", [reason, 12]) |> List.to_string() |> String.slice(0, 100)
    Say.say(:ended, who: inspect(name), reason: reason)
    %{state | other: [name | state.other]}
  end

  defp facts(state) do
    kinds = state.alive |> Map.values() |> Enum.frequencies_by(&elem(&1, 0))
    {victims, deficit, _} = state.round || {0, 0, nil}

    [
      ms: now() - state.begun,
      low_alive: Map.get(kinds, :low, 0),
      low_kills: state.low_kills,
      low_caps: state.low_caps,
      normal_deaths: state.normal_deaths,
      innocents_lost: MapSet.size(state.lost),
      timeouts: MapSet.size(state.timed_out),
      asked_us: Asker.worst_us(),
      filled_bytes: state.filled_bytes,
      inversions: state.inversions,
      other_deaths: length(state.other) - state.normal_deaths,
      protected_deaths: Enum.count(state.other, &match?({:protected, _}, &1)),
      exhausted: state.exhausted,
      critical: if(state.critical_at, do: 1, else: 0),
      relief_ms: state.relief_ms || -1,
      victims_bytes: victims,
      deficit_bytes: deficit,
      calm_us: state.calm_us,
      worst_us: Prober.worst_us()
    ]
  end

  # Facts the guard could have known, to find out why a run was lost.
  defp trace(snapshot, state) do
    pid = Process.whereis(OOM.Guard)
    guard = pid && Process.info(pid, [:message_queue_len, :status, :reductions])

    Say.say(:trace,
      ms: now() - state.begun,
      level: snapshot.level,
      working_set: mib(snapshot.working_set_bytes),
      rss: mib(snapshot.rss_bytes),
      slack: mib(snapshot.slack_bytes),
      growth: mib(snapshot.growth_bytes_per_s),
      age_us: snapshot.age_us || -1,
      interval_us: snapshot.interval_us || -1,
      guard: guard,
      run_queue: :erlang.statistics(:total_run_queue_lengths),
      low: Enum.count(state.alive, &match?({_, {:low, _}}, &1)),
      kills: state.low_kills,
      worst_us: Prober.worst_us()
    )
  end

  defp mib(bytes), do: div(bytes || 0, 1_048_576)
  defp now, do: System.monotonic_time(:millisecond)
end
