defmodule OOM.Supervisor.Server do
  @moduledoc false
  # OTP's `:supervisor` with one difference: a child that left because of memory is not restarted
  # and not counted; it is held (OOM.Holds). Everything else, and the state of the process, is
  # OTP's own: each callback is handed on.
  #
  # Why the exit and not a `terminate_child` sent ahead of the kill: the exit tells the whole
  # story, whoever killed and however busy this process is, so there is no order to get wrong.
  #
  # From OTP 28 on, what `:supervisor` returns may end with an action for `:gen_server` (a timer
  # after which it hibernates). It is passed on where a return is, see `split/1` and `idle/1`.

  @behaviour :gen_server

  alias OOM.{Child, Holds, Tables, Victims}
  alias OOM.Supervisor.{Callback, Children}

  # How long a `:killed` child may turn out to have met its max_heap_size, see `verdict/3`.
  @verdict_ms 50

  @impl true
  def init({name, callback, {module, _arg, _options} = arg}) do
    # What observer and the release handler look for.
    Process.put(:"$initial_call", {:supervisor, module, 1})
    # The name in reports: without one, OTP would name the callback module.
    name = if name == :self, do: {self(), module}, else: name

    with {:stop, {:bad_return, {^callback, :init, other}}} <-
           :supervisor.init({name, callback, arg}),
         do: {:stop, {:bad_return, {module, :init, other}}}
  end

  @impl true
  def handle_call(request, from, state) do
    # What is asked must not see a child that is dead and neither held nor restarted.
    case await_verdicts(state) do
      {:noreply, state} -> request(request, from, state)
      stop -> stop
    end
  end

  defp request({:start_child, spec}, from, state) when is_map(spec) or is_tuple(spec) do
    request = {:start_child, Child.wrap(spec, Callback.options())}

    case split(:supervisor.handle_call(request, from, state)) do
      {{:error, {reason, child}}, rest} when is_tuple(child) ->
        reply({:error, {reason, Child.unwrap(child)}}, rest)

      {result, rest} ->
        reply(result, rest)
    end
  end

  defp request({:get_childspec, _id} = request, from, state) do
    case split(:supervisor.handle_call(request, from, state)) do
      {{:ok, spec}, rest} -> reply({:ok, Child.unwrap(spec)}, rest)
      {error, rest} -> reply(error, rest)
    end
  end

  # The user's own word on a held child ends the hold.
  defp request({action, id} = request, from, state)
       when action in [:terminate_child, :restart_child, :delete_child] do
    Process.put({__MODULE__, :asked}, true)
    {result, rest} = split(:supervisor.handle_call(request, from, state))
    Process.delete({__MODULE__, :asked})

    if result == :ok or elem(result, 0) == :ok do
      if action != :restart_child, do: Children.forget(id)
      Holds.forget(self(), id, Callback.strategy() == :one_for_one)
    end

    reply(result, rest)
  end

  defp request(request, from, state), do: :supervisor.handle_call(request, from, state)

  @doc """
  Called at the start of a child, in its supervisor: whether it must stay down. It is held, and a
  sibling's crash is what would start it; nobody has asked for this one.
  """
  @spec stays_down?(term()) :: boolean()
  def stays_down?(id) do
    Callback.ours?() and not Process.get({__MODULE__, :asked}, false) and
      Holds.held?(self(), id, Callback.strategy() == :one_for_one)
  end

  @impl true
  def handle_cast(message, state), do: :supervisor.handle_cast(message, state)

  @impl true
  def handle_info({:EXIT, pid, reason} = exit, state) do
    case Children.get(pid) do
      nil ->
        :supervisor.handle_info(exit, state)

      {id, options} = child ->
        case verdict(pid, reason, options) do
          :memory ->
            hold(pid, child, state)

          :unknown ->
            Process.put({__MODULE__, :verdicts}, [{pid, reason} | verdicts()])
            Process.send_after(self(), {__MODULE__, :verdicts}, @verdict_ms)
            idle(state)

          :other ->
            exited(pid, id, reason, state)
        end
    end
  end

  def handle_info({__MODULE__, :verdicts}, state) do
    with {:noreply, state} <- settle_verdicts(state), do: idle(state)
  end

  def handle_info(message, state), do: :supervisor.handle_info(message, state)

  @impl true
  def terminate(reason, state), do: :supervisor.terminate(reason, state)

  # As OTP's own tells it, and with the module the release handler asks for.
  @impl true
  def format_status(:terminate, [_dictionary, state]), do: state

  def format_status(_normal, [dictionary, state]) do
    {:supervisor, module, 1} = List.keyfind(dictionary, :"$initial_call", 0) |> elem(1)
    [data: [{~c"State", state}], supervisor: [{~c"Callback", module}]]
  end

  @impl true
  def code_change(old, state, extra), do: :supervisor.code_change(old, state, extra)

  # `:killed` says nothing of who killed. While memory is short it is taken for what the VM does
  # at a max_heap_size. Otherwise, if it was the VM, its report is on the way and marks the victim
  # (OOM.HeapReports), and the restart waits a moment for that.
  defp verdict(pid, reason, options) do
    cond do
      # While the application is stopped nobody could bring it back.
      Tables.config() == nil or Tables.stopping?() -> :other
      reason == {:shutdown, :memory_pressure} -> :memory
      Victims.marked?(pid) -> :memory
      reason != :killed or Keyword.get(options, :type, :worker) != :worker -> :other
      OOM.level() != :normal -> :memory
      true -> :unknown
    end
  end

  defp verdicts, do: Process.get({__MODULE__, :verdicts}, [])

  defp await_verdicts(state) do
    if verdicts() == [] do
      {:noreply, state}
    else
      receive do
        {__MODULE__, :verdicts} -> settle_verdicts(state)
      after
        @verdict_ms -> settle_verdicts(state)
      end
    end
  end

  defp settle_verdicts(state) do
    case Process.delete({__MODULE__, :verdicts}) do
      nil -> {:noreply, state}
      verdicts -> verdicts |> Enum.reverse() |> settle_verdicts(state)
    end
  end

  defp settle_verdicts([], state), do: {:noreply, state}

  defp settle_verdicts([{pid, reason} | rest], state) do
    case Children.get(pid) do
      nil ->
        settle_verdicts(rest, state)

      {id, _options} = child ->
        outcome =
          if Victims.marked?(pid),
            do: hold(pid, child, state),
            else: exited(pid, id, reason, state)

        case outcome do
          {:stop, _, _} = stop -> stop
          noreply -> settle_verdicts(rest, elem(noreply, 1))
        end
    end
  end

  # OTP's own way with an exit. Its strategy may end temporary siblings with it, of whom nothing is
  # heard any more.
  defp exited(pid, id, reason, state) do
    Children.forget(id)
    result = :supervisor.handle_info({:EXIT, pid, reason}, state)

    if Callback.strategy() in [:one_for_all, :rest_for_one] and elem(result, 0) == :noreply,
      do: Children.keep(for {id, true} <- children(elem(result, 1)), do: id)

    result
  end

  defp hold(pid, {id, options} = child, state) do
    if options[:restart] == :temporary do
      # Forgotten, as ever; and where it is significant, the supervisor may end.
      exited(pid, id, {:shutdown, :memory_pressure}, state)
    else
      hold_unit(pid, child, state)
    end
  end

  defp hold_unit(pid, {id, options}, state) do
    unit = unit(id, state)
    state = end_quietly(pid, id, options, state)
    others = for {other, true} when other != id <- Enum.reverse(unit), do: other
    state = Enum.reduce(others, state, &terminate_child/2)
    Holds.hold(self(), id, unit, pid, options)
    idle(state)
  end

  # What goes down together, in start order, as the strategy has it; and whether it runs.
  defp unit(id, state) do
    case Callback.strategy() do
      :one_for_all -> children(state)
      :rest_for_one -> Enum.drop_while(children(state), fn {other, _} -> other != id end)
      _ -> [{id, true}]
    end
  end

  defp children(state) do
    {children, _} = split(:supervisor.handle_call(:which_children, {self(), nil}, state))
    for {id, pid, _, _} <- Enum.reverse(children), do: {id, is_pid(pid)}
  end

  # The child is dead and its exit already taken from the mailbox. `terminate_child` is what
  # leaves a specification without a process and without a restart; put back as the exit that
  # terminate_child expects, it also leaves no error report.
  defp end_quietly(pid, id, options, state) do
    expected = if options[:shutdown] == :brutal_kill, do: :killed, else: :shutdown
    send(self(), {:EXIT, pid, expected})
    terminate_child(id, state)
  end

  defp terminate_child(id, state) do
    {_, [state | _]} =
      split(:supervisor.handle_call({:terminate_child, id}, {self(), make_ref()}, state))

    Children.forget(id)
    state
  end

  # A reply, and the rest of what was returned: the state, and an action where there is one.
  defp split({:reply, result, state}), do: {result, [state]}
  defp split({:reply, result, state, action}), do: {result, [state, action]}

  defp reply(result, rest), do: List.to_tuple([:reply, result | rest])

  # Nothing more to do; with the action that OTP wants now. It answers a question that changes
  # nothing with just that.
  defp idle(state) do
    request = {:get_childspec, make_ref()}
    {_, rest} = split(:supervisor.handle_call(request, {self(), make_ref()}, state))
    List.to_tuple([:noreply | rest])
  end
end
