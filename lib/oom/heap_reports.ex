defmodule OOM.HeapReports do
  @moduledoc false
  # The VM reports a process that it killed for its `max_heap_size`, and only the report tells such an end
  # from any other `:killed`. The emulator sends its reports to one process, the system logger, by default a
  # process of OTP. This process takes the role, marks the victims for their supervisors, and hands every
  # report on, unchanged, to the previous holder. So the victims are known whatever the log level and filters
  # are.
  #
  # A flooded `logger_proxy` of OTP gives the role up (the role then is `undefined`, and the VM drops its
  # reports), and takes the role again after the flood. So OOM.HeapCaps, with its own looks, checks the role
  # about once a second: a timer of this process would wake another scheduler, and each wake-up costs a node at
  # rest a quarter of a millisecond of spinning. From a foreign process the role is not taken back: that process
  # may hand its reports on to this process, and the reports would go round in circles.
  #
  # When this process is killed, the VM gives the role to `logger`; the next incarnation takes the role again.

  use GenServer

  alias OOM.Victims

  # How often this process looks for a report, and the pause in between. A report was seen to come up to 0.1
  # ms after the exit. While loops that do not yield occupy all schedulers, this process is late itself, so
  # the time is counted from its own turn.
  @rounds 2
  @round_ms 25
  # Reports still on their way to a process that gives the role up.
  @drained_ms 0

  @typep logger :: pid() | :logger | :undefined

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options) do
    # A report that comes after the verdict on an exit is lost. A flood of reports must neither wait for the
    # scheduler nor be copied by each collection.
    options = [priority: :high, message_queue_data: :off_heap]
    GenServer.start_link(__MODULE__, nil, name: __MODULE__, spawn_opt: options)
  end

  @doc """
  Sends `message` as soon as `known?` returns true, or once the time for the VM's report of an end is over. No
  message comes where this process ends meanwhile.
  """
  @spec tell_when_read((() -> boolean()), term(), pid() | reference()) :: :ok
  def tell_when_read(known?, message, to \\ self()) do
    case Process.whereis(__MODULE__) do
      nil -> send(to, message)
      pid -> send(pid, {:tell_when_read, @rounds, known?, to, message})
    end

    :ok
  end

  @doc "Lets this process look whether to take the role again, where another process has it."
  @spec check_role() :: :ok
  def check_role do
    reports = Process.whereis(__MODULE__)

    _ =
      if reports != nil and :erlang.system_info(:system_logger) != reports,
        do: send(reports, :look)

    :ok
  end

  @impl true
  def init(nil) do
    Process.flag(:trap_exit, true)
    {:ok, take(%{before: nil, monitor: nil})}
  end

  @impl true
  def handle_info(report, state) when is_tuple(report) and elem(report, 0) == :log do
    # The mark comes first: the supervisor waits for the mark.
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

  # These processes take the role by themselves.
  defp otp?(holder),
    do: holder in [:logger, :undefined, Process.whereis(:logger), Process.whereis(:logger_proxy)]

  @spec otp() :: logger()
  defp otp, do: Process.whereis(:logger_proxy) || :logger

  # Without this process the VM would have dropped the report.
  defp pass(:undefined, _report), do: :ok
  defp pass(pid, report) when is_pid(pid), do: send(pid, report)

  defp pass(:logger, report),
    do: with(pid when is_pid(pid) <- Process.whereis(:logger), do: send(pid, report))

  @doc "Marks the victim that a report names, if any."
  @spec note(tuple()) :: :ok
  def note({:log, :error, format, [pid | args], _meta}) when is_pid(pid) and is_list(format) do
    with words when is_integer(words) <- killed_at(args),
         true <- :string.find(format, ~c"maximum heap size reached") != :nomatch,
         do: mark(pid, words * :erlang.system_info(:wordsize))

    :ok
  end

  def note(_report), do: :ok

  # The rest of the arguments of the VM's report: on a named node the name, then the cap in words, the heap in
  # words, whether the VM kills, and more, which differs among releases. Where binaries count for the cap, the
  # heap alone may be small; heap and binaries together have passed the cap.
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
