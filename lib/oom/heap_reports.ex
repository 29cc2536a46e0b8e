defmodule OOM.HeapReports do
  @moduledoc false
  # The VM reports a process that it killed for its `max_heap_size`, and only that report tells such an
  # end from any other `:killed`. The emulator sends its reports to one process, the system logger, by
  # default one of OTP's. This process takes that role, marks the victims for their supervisors, and
  # hands every report on, unchanged, to whoever had the role before. So they are known whatever the
  # level of the log is, and whatever its filters stop.
  #
  # OTP's `logger_proxy` gives the role up while it is flooded (it then is `undefined`, and the VM drops
  # what it would report), and takes it when that is over. So it is looked after once a second. From
  # any other process it is not taken back: that one may hand its reports on to this one, and they would
  # go round in circles.
  #
  # When this process is killed, the VM gives the role to `logger`; its next incarnation takes it again.

  use GenServer

  alias OOM.Victims

  @look_ms 1_000
  # How often this process looks whether a report has come, and the pause in between. It was seen to come
  # up to 0.1 ms after the exit that it tells of; and while loops that do not yield have all schedulers,
  # this process runs when they let it, so the time is counted from there.
  @rounds 2
  @round_ms 25
  # Reports that are under way to a process that gives the role up.
  @drained_ms 0

  @typep logger :: pid() | :logger | :undefined

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options) do
    # A report that comes too late for the verdict on an exit is lost on that; and a flood of them must
    # neither wait for the scheduler nor be copied by each collection.
    options = [priority: :high, message_queue_data: :off_heap]
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: options)
  end

  @doc """
  Sends this message once `known?` says so, or what the VM had to report of an end is read. Nothing may
  come where this process ends meanwhile.
  """
  @spec tell_when_read((() -> boolean()), term(), pid() | reference()) :: :ok
  def tell_when_read(known?, message, to \\ self()) do
    case Process.whereis(__MODULE__) do
      nil -> send(to, message)
      pid -> send(pid, {:tell_when_read, @rounds, known?, to, message})
    end

    :ok
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    state = take(%{before: nil, monitor: nil})
    Process.send_after(self(), :look, @look_ms)
    {:ok, state}
  end

  @impl true
  def handle_info(report, state) when is_tuple(report) and elem(report, 0) == :log do
    # First the mark: its supervisor waits for that.
    note(report)
    pass(state.before, report)
    {:noreply, state}
  end

  def handle_info({:tell_when_read, rounds, known?, to, message}, state) do
    again = {:tell_when_read, rounds - 1, known?, to, message}

    _ =
      if rounds == 0 or known?.(),
        do: send(to, message),
        else: Process.send_after(self(), again, @round_ms)

    {:noreply, state}
  end

  def handle_info(:look, state) do
    Process.send_after(self(), :look, @look_ms)
    holder = :erlang.system_info(:system_logger)
    {:noreply, if(holder != self() and otp?(holder), do: take(state), else: state)}
  end

  # The VM itself would go on with `logger`.
  def handle_info({:DOWN, ref, :process, _pid, _reason}, %{monitor: ref} = state),
    do: {:noreply, %{state | before: otp(), monitor: nil}}

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    _ =
      if :erlang.system_info(:system_logger) == self(),
        do: :erlang.system_flag(:system_logger, state.before)

    drain(state.before)
  end

  defp drain(before) do
    receive do
      report when is_tuple(report) and elem(report, 0) == :log ->
        note(report)
        pass(before, report)
        drain(before)
    after
      @drained_ms -> :ok
    end
  end

  defp take(state) do
    before =
      case :erlang.system_flag(:system_logger, self()) do
        me when me == self() -> state.before || otp()
        pid when is_pid(pid) -> if Process.alive?(pid), do: pid, else: otp()
        name -> name
      end

    _ = if state.monitor, do: Process.demonitor(state.monitor, [:flush])
    %{state | before: before, monitor: if(is_pid(before), do: Process.monitor(before))}
  end

  # Those that take it by themselves.
  defp otp?(holder),
    do: holder in [:logger, :undefined, Process.whereis(:logger), Process.whereis(:logger_proxy)]

  @spec otp() :: logger()
  defp otp, do: Process.whereis(:logger_proxy) || :logger

  # Nobody wants them: the VM would not have made them.
  defp pass(:undefined, _report), do: :ok
  defp pass(pid, report) when is_pid(pid), do: send(pid, report)

  defp pass(:logger, report),
    do: with(pid when is_pid(pid) <- Process.whereis(:logger), do: send(pid, report))

  @doc "Marks the victim, where a report tells of one."
  @spec note(tuple()) :: :ok
  def note({:log, :error, format, [pid | args], _meta}) when is_pid(pid) and is_list(format) do
    with words when is_integer(words) <- killed_at(args),
         true <- :string.find(format, ~c"maximum heap size reached") != :nomatch,
         do: mark(pid, words * :erlang.system_info(:wordsize))

    :ok
  end

  def note(_report), do: :ok

  # The rest of the arguments of the VM's report: on a node with a name its name, then the cap in
  # words, the heap in words, whether it kills, and more, which differs among releases. Where binaries
  # count for the cap the heap itself may be small; with them it has passed the cap.
  defp killed_at([max_words, heap_words, true | _])
       when is_integer(max_words) and is_integer(heap_words),
       do: max(max_words, heap_words)

  defp killed_at([node | args]) when is_atom(node) and not is_boolean(node), do: killed_at(args)
  defp killed_at(_other), do: nil

  defp mark(pid, bytes) do
    Victims.mark(pid, System.monotonic_time(:millisecond), bytes)
  rescue
    # The tables are gone: the application is stopping.
    ArgumentError -> :ok
  end
end
