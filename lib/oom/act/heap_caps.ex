defmodule OOM.HeapCaps do
  @moduledoc false
  # Which worker has which `max_heap_size`, so that caps follow the limit when it moves, and the default
  # follows the rank: the VM kills by a cap without asking what a process is worth, so those of `:high`
  # and above, and those bound to one, have none by default. One that was asked for stays.
  #
  # What a heap needs at its next collection has little to do with what lives in it: the VM counts all
  # there is and a new heap large enough for all of it, garbage too, though it writes only what lives. A
  # list that only grows needs 2.4 times its size; one whose cells are replaced all the time up to 7
  # times. No share of the limit ends the first before the kernel does and spares the second. What tells
  # them apart is speed: so one that is large while memory grows slowly gets a cap that leaves it room
  # from there (OOM.HeapCaps.Scan), and a runaway meets the default.
  #
  # How a cap is set is in OOM.HeapCaps.Setting.

  use GenServer
  require Logger

  alias OOM.{Heap, Native, Priority, Stillness, Tables, Units, Workers}
  alias OOM.HeapCaps.{Limits, Recap, Scan, Setting}

  @typedoc "`:default` of `config :oom`, or said of this worker or by it."
  @type origin :: :default | :own
  @typedoc "What was declared, and by whom; it has no cap where nothing was."
  @type cap :: {OOM.max_heap_size(), origin()}

  # How often the limit is looked at, and at most where memory stands still: a read of what the watcher
  # has measured, about 10 us.
  @look_ms 250
  @rest_ms 1_000
  # A limit that moves by less leaves the caps as they are.
  @moved 0.01
  # The working set has moved by so much of the limit since the last scan, or nobody has come to a size
  # that matters; and a scan takes no more than this part of a CPU.
  @scan_moved 0.02
  @scan_share 20
  # The release from which on the VM can count binaries for a cap.
  @counts_binaries_otp 26
  # Rows of processes that nobody watches are looked for so often.
  @sweep_ms 60_000

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The limit has moved. Sent, not asked; nothing happens where it has not."
  @spec limit_changed(pos_integer()) :: :ok
  def limit_changed(limit_bytes) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__),
         do: send(pid, {:limit, limit_bytes})

    :ok
  end

  @doc "The limit that percentages are of: the lowest that is known, `nil` where none is."
  @spec limit_bytes() :: pos_integer() | nil
  def limit_bytes do
    case :ets.lookup(__MODULE__, :limit) do
      [{_, bytes}] -> bytes
      [] -> OOM.snapshot().limit_bytes
    end
  rescue
    # The application does not run.
    ArgumentError -> nil
  end

  @doc "What a worker of this rank is capped at."
  @spec bytes(cap(), Priority.rank()) :: pos_integer() | nil
  def bytes({size, origin}, rank) do
    if origin == :default and spared?(rank), do: nil, else: Heap.bytes(size)
  end

  @doc "Whether the default is not for this rank."
  @spec spared?(Priority.rank()) :: boolean()
  def spared?(rank), do: rank == :protected or rank >= Priority.rank!(:high)

  @doc "A supervisor has started this child. It may have said something else by itself."
  @spec started(pid(), cap(), Priority.rank()) :: :ok
  def started(pid, {size, origin} = cap, rank) do
    bytes = bytes(cap, Units.own(pid) || rank)
    counts?(size)

    if :ets.insert_new(__MODULE__, {pid, size, origin, bytes, origin == :default}) and
         not Workers.member?(pid) do
      # It is in a unit, or has ended: nobody would forget it.
      forget(pid)
      _ = :erlang.spawn_opt(Heap, :cap, [pid, bytes, Heap.binaries?(size)], priority: :high)
      :ok
    else
      Setting.set(pid)
    end
  end

  @doc "Called in a worker, which says it of itself: what its cap is in bytes."
  @spec declare(OOM.max_heap_size()) :: pos_integer() | nil
  def declare(size) do
    bytes = Heap.bytes(size)
    :ets.insert(__MODULE__, {self(), size, :own, bytes, false})
    counts?(size)
    bytes
  end

  @doc "Called in a Task that was started with a cap, before it runs."
  @spec here(cap(), Priority.rank()) :: :ok
  def here({size, origin} = cap, rank) do
    Tables.while_there(fn ->
      :ets.insert(__MODULE__, {self(), size, origin, bytes(cap, rank), origin == :default})
      counts?(size)
      Setting.here()
    end)
  end

  # Said by this process, so that no worker waits for the log.
  defp counts?(size) do
    with true <- Heap.binaries?(size) and OOM.VM.otp_release() < @counts_binaries_otp,
         pid when is_pid(pid) <- Process.whereis(__MODULE__),
         do: send(pid, :counts_no_binaries)
  end

  @doc "It is worth something else now."
  @spec reranked(pid(), Priority.rank()) :: :ok
  def reranked(pid, rank) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, size, :default, bytes, _}] ->
        if spared?(rank) != (bytes == nil), do: change(pid, bytes({size, :default}, rank))

      _own_or_none ->
        :ok
    end

    :ok
  end

  @spec forget(pid()) :: true
  def forget(pid), do: :ets.delete(__MODULE__, pid)

  @doc "It is capped at something else now, or no longer."
  @spec change(pid(), pos_integer() | nil) :: :ok
  def change(pid, bytes) do
    # It may have ended.
    if :ets.update_element(__MODULE__, pid, [{4, bytes}, {5, true}]),
      do: Setting.set(pid),
      else: :ok
  end

  @impl true
  def init(nil) do
    Process.send_after(self(), :sweep, @sweep_ms)
    # Those that are there have caps of the limit that was known when this one ended.
    {:ok,
     look(%{
       limits: Limits.new(),
       limit: stored(),
       follows: nil,
       # by monitor: the scan under way; when the next may begin; what the last has found, and at which
       # working set
       scan: nil,
       scan_ms: System.monotonic_time(:millisecond),
       large: %{},
       scanned_at_bytes: 0,
       told?: false,
       still: Stillness.new(@look_ms)
     })}
  end

  @impl true
  def handle_info(:look, state), do: {:noreply, look(state)}
  def handle_info({:limit, bytes}, state), do: {:noreply, moved(bytes, state)}

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @sweep_ms)
    _ = if :ets.info(__MODULE__, :size) > Workers.count() + 1, do: spawn(&sweep/0)
    {:noreply, state}
  end

  def handle_info(:counts_no_binaries, %{told?: false} = state) do
    Logger.warning(
      "OOM: a max_heap_size with include_shared_binaries caps the heap alone on OTP " <>
        "#{OOM.VM.otp_release()}; its binaries count from OTP #{@counts_binaries_otp} on"
    )

    {:noreply, %{state | told?: true}}
  end

  # It moved again meanwhile.
  def handle_info({:DOWN, ref, :process, _, _}, %{follows: {ref, told}} = state) do
    state = %{state | follows: nil}
    {:noreply, if(told == state.limit, do: state, else: follow(state))}
  end

  def handle_info({:large, large}, state), do: {:noreply, %{state | large: large}}

  def handle_info({:DOWN, ref, :process, _, _}, %{scan: {ref, began}} = state) do
    now = System.monotonic_time(:millisecond)
    {:noreply, %{state | scan: nil, scan_ms: now + @scan_share * (now - began)}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp look(state) do
    with watcher when watcher != nil <- Tables.watcher(),
         %{limit_bytes: bytes} = report when is_integer(bytes) <- Native.watcher_report(watcher) do
      now = System.monotonic_time(:millisecond)
      limits = Limits.seen(state.limits, report.source, report.file, bytes, now)
      state = scan(report, now, moved(Limits.lowest(limits), %{state | limits: limits}))
      still = Stillness.rest(state.still, report, @look_ms, @rest_ms)
      Process.send_after(self(), :look, still.pause_ms)
      %{state | still: still}
    else
      _ ->
        Process.send_after(self(), :look, @look_ms)
        state
    end
  end

  defp moved(bytes, %{limit: limit} = state) when is_integer(limit) do
    if abs(bytes - limit) > limit * @moved, do: follow(put(bytes, state)), else: state
  end

  # The first one: whoever has started before is capped by it already, or not at all.
  defp moved(bytes, state), do: follow(put(bytes, state))

  # While it moves; and where one was found that is large, until it has been told.
  defp scan(%{working_set_bytes: bytes} = report, now, %{scan: nil, limit: limit} = state)
       when is_integer(bytes) and is_integer(limit) do
    moved? = abs(bytes - state.scanned_at_bytes) > limit * @scan_moved

    if now >= state.scan_ms and (moved? or Scan.pending?(state.large)) do
      {me, large, time?} = {self(), state.large, Scan.time?(report.time_to_exhaustion_ms)}

      scan = fn ->
        Tables.while_there(fn ->
          {large, told} = Scan.compare(large, Setting.large(limit), time?)
          Enum.each(told, &Setting.set/1)
          send(me, {:large, large})
        end)
      end

      {_pid, ref} = spawn_monitor(scan)
      %{state | scan: {ref, now}, scanned_at_bytes: bytes}
    else
      state
    end
  end

  defp scan(_report, _now, state), do: state

  defp put(bytes, state) do
    :ets.insert(__MODULE__, {:limit, bytes})
    %{state | limit: bytes}
  end

  defp stored do
    case :ets.lookup(__MODULE__, :limit) do
      [{_, bytes}] -> bytes
      [] -> nil
    end
  end

  # One at a time.
  defp follow(%{follows: nil, limit: limit} = state) do
    {_pid, ref} = spawn_monitor(fn -> Tables.while_there(&Recap.all/0) end)
    %{state | follows: {ref, limit}}
  end

  defp follow(state), do: state

  defp sweep do
    Tables.while_there(fn ->
      for pid <- :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_}, [], [:"$1"]}]),
          not Process.alive?(pid),
          do: forget(pid)
    end)
  end
end
