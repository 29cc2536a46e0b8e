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

  alias OOM.{Child, HeapReports, Holds, Tables, Units, Victims, Visit}
  alias OOM.Holds.Release
  alias OOM.Supervisor.{Callback, Children, Starts}

  # By then a `:killed` child that has a cap is a crash like any other, if whoever reads the VM's reports
  # does not answer; see `verdict/3`. Longer than loops within one timeslice have kept it from running.
  @verdict_ms 5_000

  @impl true
  def init({name, callback, {module, _arg, _options} = arg}) do
    # What observer and the release handler look for.
    Process.put(:"$initial_call", {:supervisor, module, 1})
    # The name in reports: without one, OTP would name the callback module.
    name = if name == :self, do: {self(), module}, else: name
    # OTP makes such a name, too, but its spec says that it is not given one.
    otp_init = :erlang.make_fun(:supervisor, :init, 1)

    with {:stop, {:bad_return, {^callback, :init, other}}} <-
           Starts.own([], fn -> otp_init.({name, callback, arg}) end),
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
    request = {:start_child, Child.Spec.wrap(spec, Callback.options())}

    case split(:supervisor.handle_call(request, from, state)) do
      {{:error, {reason, child}}, rest} when is_tuple(child) ->
        reply({:error, {reason, Child.Spec.unwrap(child)}}, rest)

      {result, rest} ->
        reply(result, rest)
    end
  end

  defp request({:get_childspec, _id} = request, from, state) do
    case split(:supervisor.handle_call(request, from, state)) do
      {{:ok, spec}, rest} -> reply({:ok, Child.Spec.unwrap(spec)}, rest)
      {error, rest} -> reply(error, rest)
    end
  end

  # The user's own word on a held child ends the hold.
  defp request({action, id} = request, from, state)
       when action in [:terminate_child, :restart_child, :delete_child] do
    {result, rest} = split(:supervisor.handle_call(request, from, state))

    if result == :ok or elem(result, 0) == :ok do
      if action != :restart_child, do: Children.forget(id)
      Holds.Down.forget(self(), id, action, Callback.strategy() == :one_for_one)
    end

    reply(result, rest)
  end

  # Its user may have decided otherwise since that was sent.
  defp request({Release, key, id}, {releaser, _} = from, state) do
    if Holds.Down.returns?(key, id, releaser) do
      request({:restart_child, id}, from, state)
    else
      {_, rest} = split(:supervisor.handle_call({:get_childspec, make_ref()}, from, state))
      reply({:error, :not_found}, rest)
    end
  end

  defp request(request, from, state), do: :supervisor.handle_call(request, from, state)

  # A restart that has failed is tried again.
  @impl true
  def handle_cast(message, state),
    do: by_itself(state, fn -> :supervisor.handle_cast(message, state) end)

  @impl true
  def handle_info({:EXIT, pid, reason} = exit, state) do
    if verdicts() != [] and strategy_takes_others?() do
      # What a strategy does to all its children goes by one end after the other. Back into the
      # mailbox, where OTP expects the exit of a child it ends.
      send(self(), exit)
      with {:noreply, state} <- await_verdicts(state), do: idle(state)
    else
      exit(pid, reason, state)
    end
  end

  def handle_info({__MODULE__, :verdict, pid}, state) do
    with {:noreply, state} <- settle_verdict(pid, state), do: idle(state)
  end

  def handle_info({Children, pid, said}, state) do
    Children.said(pid, said)
    idle(state)
  end

  def handle_info(message, state), do: :supervisor.handle_info(message, state)

  @impl true
  def terminate(reason, state) do
    # OTP looks for the exits of the children it ends in the mailbox.
    for {pid, why} <- Enum.reverse(verdicts()), do: send(self(), {:EXIT, pid, why})
    :supervisor.terminate(reason, state)
  end

  # As OTP's own tells it, and with the module the release handler asks for.
  @impl true
  def format_status(:terminate, [_dictionary, state]), do: state

  def format_status(_normal, [dictionary, state]) do
    {:supervisor, module, 1} = List.keyfind(dictionary, :"$initial_call", 0) |> elem(1)
    [data: [{~c"State", state}], supervisor: [{~c"Callback", module}]]
  end

  @impl true
  def code_change(old, state, extra) do
    noted = Callback.noted()

    with refused when elem(refused, 0) != :ok <- :supervisor.code_change(old, state, extra) do
      Callback.note(noted)
      refused
    end
  end

  defp exit(pid, reason, state) do
    case Children.get(pid) do
      nil ->
        exited(pid, reason, state)

      {_id, options} = child ->
        case verdict(pid, reason, options) do
          :memory ->
            hold(pid, child, state)

          :ended ->
            ended(pid, child, state)

          :unknown ->
            Process.put({__MODULE__, :verdicts}, [{pid, reason} | verdicts()])
            marked? = fn -> Victims.marked?(pid) end
            HeapReports.tell_when_read(marked?, {__MODULE__, :verdict, pid})
            Process.send_after(self(), {__MODULE__, :verdict, pid}, @verdict_ms)
            idle(state)

          :other ->
            left(pid, child, reason, state)
        end
    end
  end

  # The last significant child that runs may end in order while another is held, which is to come
  # back: OTP would take the absence of that for its end, and end this supervisor.
  defp left(pid, {id, _options}, reason, state) do
    with true <- Visit.ends_with_all?(state),
         spec = childspec(id, state),
         true <- for_good?(spec.restart, reason),
         :waits <- Visit.fate(id, spec, state) do
      pid |> end_quietly(spec, state) |> idle()
    else
      _ -> exited(pid, reason, state)
    end
  end

  defp for_good?(:temporary, _reason), do: true
  defp for_good?(:transient, reason) when reason in [:normal, :shutdown], do: true
  defp for_good?(:transient, {:shutdown, _}), do: true
  defp for_good?(_restart, _reason), do: false

  # Memory's victim is whom the guard has marked, or the VM's heap report names (OOM.HeapReports), and
  # who leaves with the reason that victims have. All else is a crash like any other.
  #
  # `:killed` says nothing of who killed. Where the VM may have done it, because there is a cap, its
  # report is made with the exit, and the restart waits until it is read. A protected worker never waits: it is
  # restarted at once, whatever it ended with.
  defp verdict(pid, reason, options) do
    cond do
      # While the application is stopped nobody could bring it back.
      Tables.config() == nil or Tables.stopping?() -> :other
      protected?(options) -> :other
      reason == {:shutdown, :memory_pressure} -> :memory
      Victims.marked?(pid) -> if ended?(reason, options), do: :ended, else: :memory
      reason != :killed or not worker?(options) -> :other
      Child.capped?(options) -> :unknown
      true -> :other
    end
  end

  defp worker?(options), do: Keyword.get(options, :type, :worker) == :worker

  # Of a supervisor it is what is below it that is protected.
  defp protected?(options),
    do: (worker?(options) or options[:unit] == true) and Child.rank(options) == :protected

  # A supervisor that ended because of what was killed below it (OOM.Visit.ending/0).
  defp ended?(:shutdown, options), do: options[:type] == :supervisor and options[:unit] != true
  defp ended?(_reason, _options), do: false

  defp verdicts, do: Process.get({__MODULE__, :verdicts}, [])

  defp await_verdicts(state) do
    if verdicts() == [] do
      {:noreply, state}
    else
      receive do
        {__MODULE__, :verdict, pid} ->
          with {:noreply, state} <- settle_verdict(pid, state), do: await_verdicts(state)
      end
    end
  end

  # Of this one alone: the report on another may not have been read yet.
  defp settle_verdict(pid, state) do
    with {{^pid, reason}, rest} <- List.keytake(verdicts(), pid, 0),
         Process.put({__MODULE__, :verdicts}, rest),
         child when child != nil <- Children.get(pid) do
      outcome =
        if Victims.marked?(pid),
          do: hold(pid, child, state),
          else: exited(pid, reason, state)

      case outcome do
        {:stop, _, _} = stop -> stop
        noreply -> {:noreply, elem(noreply, 1)}
      end
    else
      nil -> {:noreply, state}
    end
  end

  # OTP's own way with an exit.
  defp exited(pid, reason, state) do
    result = by_itself(state, fn -> :supervisor.handle_info({:EXIT, pid, reason}, state) end)
    Children.ended(pid)
    result
  end

  # What OTP does here may start children, and may end some.
  defp by_itself(state, fun) do
    if strategy_takes_others?() do
      result = Starts.own(held(state), fun)
      # An action may follow the state.
      if elem(result, 0) == :noreply, do: keep(elem(result, 1))
      result
    else
      Starts.own([], fun)
    end
  end

  # Those of them that are down: one that its user has started again is like any other.
  defp held(state) do
    case Holds.Down.ids(self()) do
      [] -> []
      held -> for {id, pid} <- children(state), not is_pid(pid), id in held, do: id
    end
  end

  defp keep(state), do: Children.keep(for {_, pid} <- children(state), is_pid(pid), do: pid)

  defp strategy_takes_others?, do: Callback.strategy() in [:one_for_all, :rest_for_one]

  defp hold(pid, {id, options}, state) do
    # As it is now: the code may have changed since the child was started.
    case childspec(id, state) do
      %{restart: :temporary} = spec -> forget(pid, spec, {:shutdown, :memory_pressure}, state)
      spec -> hold(pid, spec, options, state)
    end
  end

  defp hold(pid, spec, options, state) do
    running = for {id, pid} <- children(state), do: {id, is_pid(pid)}
    unit = Units.together(Callback.strategy(), spec.id, running)
    state = end_quietly(pid, spec, state)
    others = for {other, true} when other != spec.id <- Enum.reverse(unit), do: other
    state = Enum.reduce(others, state, &terminate_child/2)
    Holds.Down.hold(self(), spec.id, unit, pid, [return: :restart_held] ++ options)
    idle(state)
  end

  defp ended(pid, {id, options}, state) do
    case childspec(id, state) do
      %{restart: :permanent} = spec -> hold(pid, spec, options, state)
      spec -> forget(pid, spec, :shutdown, state)
    end
  end

  # As ever; and where it is significant, this supervisor may end.
  defp forget(pid, spec, reason, state) do
    case Visit.fate(spec.id, spec, state) do
      :waits ->
        pid |> end_quietly(spec, state) |> idle()

      :ends ->
        Visit.ending()
        exited(pid, reason, state)

      :stays ->
        exited(pid, reason, state)
    end
  end

  defp childspec(id, state) do
    {{:ok, spec}, _} = split(:supervisor.handle_call({:get_childspec, id}, from(), state))
    spec
  end

  # In start order.
  defp children(state) do
    {children, _} = split(:supervisor.handle_call(:which_children, from(), state))
    for {id, pid, _, _} <- Enum.reverse(children), do: {id, pid}
  end

  # The child is dead and its exit already taken from the mailbox. `terminate_child` is what
  # leaves a specification without a process and without a restart; put back as the exit that
  # terminate_child expects, it also leaves no error report.
  defp end_quietly(pid, spec, state) do
    expected = if spec.shutdown == :brutal_kill, do: :killed, else: :shutdown
    send(self(), {:EXIT, pid, expected})
    terminate_child(spec.id, state)
  end

  defp terminate_child(id, state) do
    {_, [state | _]} = split(:supervisor.handle_call({:terminate_child, id}, from(), state))
    Children.forget(id)
    state
  end

  # Nobody waits for an answer.
  defp from, do: {self(), make_ref()}

  # A reply, and the rest of what was returned: the state, and an action where there is one.
  defp split(reply) do
    [:reply, result | rest] = Tuple.to_list(reply)
    {result, rest}
  end

  defp reply(result, rest), do: List.to_tuple([:reply, result | rest])

  # Nothing more to do; with the action that OTP wants now. It answers a question that changes
  # nothing with just that.
  defp idle(state) do
    request = {:get_childspec, make_ref()}
    {_, rest} = split(:supervisor.handle_call(request, from(), state))
    List.to_tuple([:noreply | rest])
  end
end
