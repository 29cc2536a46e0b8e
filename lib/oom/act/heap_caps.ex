defmodule OOM.HeapCaps do
  @moduledoc false
  # The `max_heap_size` of each worker, so that caps follow the limit when the limit moves, and the default
  # cap follows the rank. The VM kills by a cap whatever a process is worth, so workers of `:high` and above,
  # and workers bound to such a worker, have no cap by default. A cap that was asked for stays.
  #
  # The memory of a heap's next collection has little to do with the live part. The VM counts the whole heap,
  # with garbage, and a new heap large enough for all of it, though the VM writes only the live part. A list
  # that only grows needs 2.4 times its size; a list whose cells are replaced all the time needs up to 7
  # times. No share of the limit ends the first before the kernel does and spares the second. Speed tells them
  # apart: a heap that is large while memory grows slowly gets a cap with room from there (OOM.HeapCaps.Scan),
  # and a runaway meets the default.
  #
  # OOM.HeapCaps.Setting sets the caps.

  use GenServer
  require OOM.Log, as: Log

  alias OOM.{Heap, HeapReports, Native, Priority, Snapshot, Stillness, Tables, Units, Workers}
  alias OOM.HeapCaps.{Limits, Recap, Scan, Setting}

  @typedoc "`:default` of `config :oom`, or `:own`: declared for this worker or by it."
  @type origin :: :default | :own
  @typedoc "The declared size and its origin; no cap where nothing was declared."
  @type cap :: {OOM.max_heap_size(), origin()}

  # Time between two looks at the limit, and the longest while memory stands still. A look is a read of the
  # watcher's report, about 10 us.
  @look_ms 250
  @rest_ms 1_000
  # A limit that moves by less leaves the caps as they are.
  @moved 0.01
  # A scan is due when the working set has moved by this share of the limit: otherwise no heap has reached a
  # size that matters. A scan takes at most one part in `@scan_share` of a CPU.
  @scan_moved 0.02
  @scan_share 20
  # The release from which on the VM can count binaries for a cap.
  @counts_binaries_otp 26
  # Time between two searches for rows of processes that ended unwatched.
  @sweep_ms 60_000

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Sends this process the present limit, in bytes; a limit that has not moved changes nothing."
  @spec limit_changed(pos_integer()) :: :ok
  def limit_changed(limit_bytes) do
    with pid when is_pid(pid) <- Process.whereis(__MODULE__),
         do: send(pid, {:limit, limit_bytes})

    :ok
  end

  @doc "Returns the limit that percentages refer to, in bytes: the lowest known; `nil` where none is known."
  @spec limit_bytes() :: pos_integer() | nil
  def limit_bytes do
    case :ets.lookup(__MODULE__, :limit) do
      [{_, bytes}] -> bytes
      [] -> Snapshot.now().limit_bytes
    end
  rescue
    # The application does not run.
    ArgumentError -> nil
  end

  @doc "Returns the cap of a worker of this rank, in bytes; `nil` for no cap."
  @spec bytes(cap(), Priority.rank()) :: pos_integer() | nil
  def bytes({size, origin}, rank) do
    if origin == :default and spared?(rank), do: nil, else: Heap.bytes(size)
  end

  @doc "Tells whether the default cap leaves this rank out."
  @spec spared?(Priority.rank()) :: boolean()
  def spared?(rank), do: rank == :protected or rank >= Priority.rank!(:high)

  @doc "Caps a child that a supervisor has started, unless the child has declared a cap by itself."
  @spec started(pid(), cap(), Priority.rank()) :: :ok
  def started(pid, {size, origin} = cap, rank) do
    bytes = bytes(cap, Units.own(pid) || rank)
    counts?(size)

    if :ets.insert_new(__MODULE__, {pid, size, origin, bytes, origin == :default}) and
         not Workers.member?(pid) do
      # The process is in a unit, or has ended: its row would never be deleted.
      forget(pid)
      _ = :erlang.spawn_opt(Heap, :cap, [pid, bytes, Heap.binaries?(size)], priority: :high)
      :ok
    else
      Setting.set(pid)
    end
  end

  @doc "Declares the cap of the calling worker; returns the cap in bytes."
  @spec declare(OOM.max_heap_size()) :: pos_integer() | nil
  def declare(size) do
    bytes = Heap.bytes(size)
    :ets.insert(__MODULE__, {self(), size, :own, bytes, false})
    counts?(size)
    bytes
  end

  @doc "Caps the calling Task, which was started with a cap, before the Task's function runs."
  @spec here(cap(), Priority.rank()) :: :ok
  def here({size, origin} = cap, rank) do
    Tables.while_there(fn ->
      :ets.insert(__MODULE__, {self(), size, origin, bytes(cap, rank), origin == :default})
      counts?(size)
      Setting.here()
    end)
  end

  # This process logs, so that no worker waits for the log.
  defp counts?(size) do
    with true <- Heap.binaries?(size) and OOM.VM.otp_release() < @counts_binaries_otp,
         pid when is_pid(pid) <- Process.whereis(__MODULE__),
         do: send(pid, :counts_no_binaries)
  end

  @doc "Gives a worker the cap of its new rank."
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

  @doc "Changes the cap of a worker; `nil` removes the cap."
  @spec change(pid(), pos_integer() | nil) :: :ok
  def change(pid, bytes) do
    # The worker may have ended.
    if :ets.update_element(__MODULE__, pid, [{4, bytes}, {5, true}]),
      do: Setting.set(pid),
      else: :ok
  end

  @impl true
  def init(nil) do
    Process.send_after(self(), :sweep, @sweep_ms)
    # Present workers have caps of the limit that was known when this process last ended.
    {:ok,
     look(%{
       limits: Limits.new(),
       limit: stored(),
       follows: nil,
       # by monitor: the scan under way; the time of the next scan; the findings of the last scan, and the
       # working set at that time
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
    Log.warning(
      "OOM: a max_heap_size with include_shared_binaries caps the heap alone on OTP " <>
        "#{OOM.VM.otp_release()}; its binaries count from OTP #{@counts_binaries_otp} on"
    )

    {:noreply, %{state | told?: true}}
  end

  # The limit moved again meanwhile.
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
    HeapReports.check_role()

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

  # The first limit: workers that started before have a cap of it already, or none.
  defp moved(bytes, state), do: follow(put(bytes, state))

  # While the working set moves; and where a large heap was found, until its worker has been told.
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

  # One recap at a time.
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
