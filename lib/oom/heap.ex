defmodule OOM.Heap do
  @moduledoc false
  # `max_heap_size` for workers. Sampling is too slow for a single process that grows a heap: the collection
  # needs the old heap and the new heap at once and cannot be interrupted. The VM checks `max_heap_size`
  # before the VM takes the new heap, and the check saves the node.
  #
  # The flag is not inherited, and a supervisor does not spawn its children. So there are three ways in:
  #   * a process caps itself: `cap_self/1`, from `OOM.set_priority/2`;
  #   * the function of a Task is wrapped: `wrap/3`;
  #   * a process that speaks `sys` (GenServer, Agent, gen_statem, gen_event, GenStage ...): `ask/2`, a
  #     system message, which the process serves before any other message in its loop.
  # A plain `spawn_link` or a special process with a loop of its own is not reached from outside. Such a
  # process can call `OOM.set_priority/2`; otherwise sampling covers it. OOM.HeapCaps holds the cap of each
  # process.

  alias OOM.{HeapCaps, HeldBinaries, Priority}

  @word 8
  @most_words 0x3FFFFFFFFFFFFFF
  # A process that begins with a larger heap was set up so on purpose.
  @small 1_048_576

  @doc "Returns the size in bytes, or `nil` for no cap. `limit_bytes` is `nil` while no limit is known."
  @spec bytes(OOM.max_heap_size(), non_neg_integer() | nil) :: pos_integer() | nil
  def bytes(%{size: size}, limit_bytes), do: bytes(size, limit_bytes)
  def bytes(:infinity, _limit_bytes), do: nil
  def bytes(bytes, _limit_bytes) when is_integer(bytes), do: bytes
  def bytes({:percent_of_limit, _}, nil), do: nil
  def bytes({:percent_of_limit, p}, limit_bytes), do: trunc(limit_bytes * p / 100)

  @doc "Returns the same for the present limit, which is read only where the size is a share of it."
  @spec bytes(OOM.max_heap_size()) :: pos_integer() | nil
  def bytes(%{size: size}), do: bytes(size)
  def bytes({:percent_of_limit, _} = size), do: bytes(size, HeapCaps.limit_bytes())
  def bytes(size), do: bytes(size, nil)

  @doc "Tells whether the binaries that a process refers to count for the cap."
  @spec binaries?(OOM.max_heap_size()) :: boolean()
  def binaries?(%{include_shared_binaries: true}), do: true
  def binaries?(_size), do: false

  @spec cap_self(pos_integer() | nil, boolean()) :: :ok
  def cap_self(bytes, binaries? \\ false) do
    _ = Process.flag(:max_heap_size, flag(bytes, binaries?))
    :ok
  end

  @doc """
  Keeps the caller's mailbox off its heap. Each collection copies a mailbox on the heap: 200 MB take 150 ms
  and more, in which no kill takes effect, and twice the memory.
  """
  @spec mailbox_off_heap() :: :ok
  def mailbox_off_heap do
    Process.flag(:message_queue_data, :off_heap)
    :ok
  end

  @doc "Returns the blocks of a heap in bytes, from the `garbage_collection_info` of the process."
  @spec block_bytes(keyword()) :: non_neg_integer()
  def block_bytes(gc),
    do: @word * (gc[:heap_block_size] + gc[:old_heap_block_size] + gc[:mbuf_size])

  @doc "Returns the live part of a heap at most, in bytes: with the garbage made since the last collection."
  @spec live_bytes(keyword()) :: non_neg_integer()
  def live_bytes(gc), do: @word * (gc[:heap_size] + gc[:old_heap_size] + gc[:mbuf_size])

  @doc """
  Returns the heap of a process in bytes, with garbage, and with binaries where `binaries?`. Only a process
  that runs at this moment is sent a signal.
  """
  @spec held_bytes(pid(), boolean()) :: non_neg_integer()
  def held_bytes(pid \\ self(), binaries? \\ false) do
    case :erlang.process_info(pid, :garbage_collection_info) do
      {_, gc} ->
        # As the VM counts binaries for a cap: once for each reference.
        binaries = if binaries?, do: HeldBinaries.virtual_bytes(gc), else: 0
        block_bytes(gc) + binaries

      :undefined ->
        0
    end
  end

  @doc "Caps a process from outside, without waiting; `true` where the process can be reached."
  @spec cap(pid(), pos_integer() | nil, boolean()) :: boolean()
  def cap(pid, bytes, binaries? \\ false), do: ask(pid, fn -> prepare_self(bytes, binaries?) end)

  @doc """
  Runs `fun` in a process, between two messages, without waiting; `true` where the process can be reached.
  """
  @spec ask(pid(), (() -> :ok)) :: boolean()
  def ask(pid, fun) do
    case kind(pid) do
      :sys ->
        # The function throws: a normal return would send a copy of the state back.
        set = fn _state ->
          :ok = fun.()
          throw(:capped)
        end

        tell(pid, {:replace_state, set})

      :gen_event ->
        # `replace_state` would call the function for each handler, and there may be no handler yet. A debug
        # function is called at the next event, and is gone afterwards.
        set = fn _, _event, _ ->
          :ok = fun.()
          :done
        end

        tell(pid, {:debug, {:install, {set, nil}}})

      # The child's specification did not say so. A supervisor must never die of a cap, nor as one worker.
      :supervisor ->
        OOM.Tree.no_worker(pid)
        false

      nil ->
        false
    end
  end

  # The reply of `sys` goes to an alias that is already void.
  defp tell(pid, request) do
    void = :erlang.alias()
    :erlang.unalias(void)
    send(pid, {:system, {self(), [:alias] ++ void}, request})
    true
  end

  @doc "Wraps the start of a Task of this rank so that the Task caps itself first."
  @spec wrap({module(), atom(), [term()]}, HeapCaps.cap() | nil, Priority.rank()) ::
          {module(), atom(), [term()]}
  def wrap({Task, start, [fun]}, cap, rank)
      when start in [:start_link, :start] and is_function(fun, 0) and cap != nil,
      do: {Task, start, [__MODULE__, :run, [{cap, rank}, fun]]}

  def wrap({Task, start, [module, function, args]}, cap, rank)
      when start in [:start_link, :start] and is_list(args) and cap != nil,
      do: {Task, start, [__MODULE__, :run, [{cap, rank}, module, function, args]]}

  def wrap(mfa, _cap, _rank), do: mfa

  @doc false
  @spec run({HeapCaps.cap(), Priority.rank()}, (... -> term())) :: term()
  def run({cap, rank}, fun) do
    HeapCaps.here(cap, rank)
    fun.()
  end

  @doc false
  @spec run({HeapCaps.cap(), Priority.rank()}, module(), atom(), [term()]) :: term()
  def run({cap, rank}, module, function, args) do
    HeapCaps.here(cap, rank)
    apply(module, function, args)
  end

  # Without a cap the flag stays as it is.
  defp prepare_self(bytes, binaries?) do
    if bytes, do: cap_self(bytes, binaries?)
    mailbox_off_heap()
  end

  # Tells how a process takes a system message, if at all; only an OTP process may be sent one. The question
  # goes to a child that has just started and is idle, so it costs microseconds.
  #
  # proc_lib notes the callback module's `init/1`. For an Agent proc_lib notes the Agent's own function, but
  # the outermost call is still a gen_server's.
  defp kind(pid) do
    case OOM.InitialCall.of(pid) do
      {:supervisor, _, _} -> :supervisor
      {_module, :init, 1} -> :sys
      {:gen_event, :init_it, _} -> :gen_event
      nil -> nil
      _agent_or_unknown -> if outermost(pid) in [:gen_server, :gen_statem], do: :sys
    end
  end

  defp outermost(pid) do
    with {_, stack} <- Process.info(pid, :current_stacktrace) do
      Enum.find_value(Enum.reverse(stack), fn {module, _, _, _} ->
        module != :proc_lib && module
      end)
    end
  end

  defp flag(nil, _binaries?), do: %{size: 0}

  # OTP 25 does not know `include_shared_binaries`, and ignores the key.
  defp flag(bytes, true), do: Map.put(flag(bytes, false), :include_shared_binaries, true)
  defp flag(bytes, false), do: %{size: words(bytes), kill: true, error_logger: true}

  # The VM accepts no less than the minimal heap of the process, and no more than `@most_words`.
  defp words(bytes) when bytes >= @small, do: min(div(bytes, @word), @most_words)

  defp words(bytes) do
    {_, gc} = :erlang.process_info(self(), :garbage_collection)
    max(div(bytes, @word), gc[:min_heap_size])
  end
end
