defmodule Arena.Judge do
  @moduledoc false
  # Decides when a run is over. A culprit is the first incarnation of a leaker, or a program
  # outside of the VM. A culprit is over
  #
  #   * once it has ended, for any reason, or
  #   * while it stands still by itself: no byte taken for a second (`Arena.Progress`), and the
  #     process waits. Its table is gone, its socket is full, or it has reached its size.
  #
  # A suspended, running or runnable worker is not over, however slowly it grows: a leak throttled
  # till the end of the run is not survived. A run is decided when all culprits have been over for
  # a second: `:ended` where no culprit is left, else `:still`.

  use GenServer

  alias Arena.{Leaker, Progress}

  @look_ms 100
  @still_ms 1_000
  @settle_ms 1_000
  # The largest step of a paced shape.
  @step_bytes 262_144

  @type decision :: :ended | :still | :undecided

  def start_link(job) do
    options = [name: __MODULE__, spawn_opt: [priority: :high]]
    GenServer.start_link(__MODULE__, {job, self()}, options)
  end

  @doc "Makes all waiting leakers culprits; called before they begin."
  def begin, do: GenServer.call(__MODULE__, :begin)

  @doc "Notes that a culprit outside of the VM begins, or has reached its size."
  def outside(name, what) when what in [:begins, :over],
    do: send(__MODULE__, {:outside, name, what})

  @doc "Waits for the decision; returns it, with its time after the begin. Called by the judge's starter."
  @spec await(non_neg_integer()) :: {decision(), non_neg_integer()}
  def await(ms) do
    receive do
      {__MODULE__, decision, at_ms} -> {decision, at_ms}
    after
      ms -> {:undecided, ms}
    end
  end

  @doc "Returns the number of culprits not ended; -1 where the judge does not get to answer."
  @spec left() :: integer()
  def left do
    GenServer.call(__MODULE__, :left)
  catch
    :exit, _ -> -1
  end

  @impl true
  def init({job, owner}) do
    {:ok,
     %{
       owner: owner,
       still_ms: still_ms(job),
       # pid => {id, bytes, since when}
       culprits: %{},
       outside: MapSet.new(),
       begun: nil,
       over_since: nil
     }}
  end

  @impl true
  def handle_call(:begin, _from, state) do
    Process.send_after(self(), :look, @look_ms)

    culprits =
      for {id, pid} <- Leaker.waiting(), into: %{} do
        Process.monitor(pid)
        {pid, {id, 0, now()}}
      end

    {:reply, :ok, %{state | culprits: culprits, begun: now()}}
  end

  def handle_call(:left, _from, state),
    do: {:reply, map_size(state.culprits) + MapSet.size(state.outside), state}

  @impl true
  def handle_info({:outside, name, :begins}, state),
    do: {:noreply, %{state | outside: MapSet.put(state.outside, name)}}

  def handle_info({:outside, name, :over}, state),
    do: {:noreply, %{state | outside: MapSet.delete(state.outside, name)}}

  def handle_info({:DOWN, _ref, :process, pid, _reason}, state),
    do: {:noreply, %{state | culprits: Map.delete(state.culprits, pid)}}

  def handle_info(:look, state) do
    now = now()
    culprits = Map.new(state.culprits, &progress(&1, now))
    grows? = state.outside != MapSet.new() or Enum.any?(culprits, &grows?(&1, state, now))
    over_since = if grows?, do: nil, else: state.over_since || now
    state = %{state | culprits: culprits, over_since: over_since}

    if over_since && now - over_since >= @settle_ms do
      decision = if culprits == %{}, do: :ended, else: :still
      send(state.owner, {__MODULE__, decision, over_since - state.begun})
      {:noreply, state}
    else
      Process.send_after(self(), :look, @look_ms)
      {:noreply, state}
    end
  end

  defp progress({pid, {id, bytes, since}}, now) do
    case Progress.bytes(id) do
      ^bytes -> {pid, {id, bytes, since}}
      more -> {pid, {id, more, now}}
    end
  end

  # The status is asked for only after a long standstill: see Arena.Progress.
  defp grows?({pid, {_id, _bytes, since}}, state, now),
    do:
      now - since < state.still_ms or Process.info(pid, :status) not in [{:status, :waiting}, nil]

  @doc "Returns ms of standstill that end a culprit. A slow leaker sleeps between its steps."
  @spec still_ms(Arena.Job.t()) :: pos_integer()
  def still_ms(%{bytes_per_s: :unlimited}), do: @still_ms

  def still_ms(job),
    do: max(@still_ms, div(2 * @step_bytes * job.workers * 1_000, job.bytes_per_s))

  defp now, do: System.monotonic_time(:millisecond)
end
