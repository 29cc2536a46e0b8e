defmodule OOM.Supervisor.Server do
  @moduledoc false
  # OTP's `:supervisor` with one difference: a child that left because of memory is not restarted and not
  # counted; the child is held (OOM.Holds). All else, and the process state, is OTP's own: each callback is
  # passed on.
  #
  # The server decides at the exit, not by a `terminate_child` sent ahead of the kill. The exit tells the
  # whole story, whoever killed and however busy the supervisor is, so no order can go wrong.

  @behaviour :gen_server

  import OOM.Supervisor.Otp

  alias OOM.{Child, Holds, Units, Victims, Visit}
  alias OOM.Holds.Release
  alias OOM.Supervisor.{Callback, Children, Rejoin, Starts, Verdict}

  @impl true
  def init({name, callback, {module, _arg, _options} = arg}) do
    # The key that observer and the release handler look for.
    Process.put(:"$initial_call", {:supervisor, module, 1})
    Rejoin.warn_unguarded()
    # The name in reports. Without a name, OTP would report the callback module.
    name = if name == :self, do: {self(), module}, else: name
    # OTP builds such names itself, but its spec does not allow them as arguments.
    otp_init = :erlang.make_fun(:supervisor, :init, 1)

    with {:stop, {:bad_return, {^callback, :init, other}}} <-
           Starts.own([], fn -> otp_init.({name, callback, arg}) end),
         do: {:stop, {:bad_return, {module, :init, other}}}
  end

  @impl true
  def handle_call(request, from, state) do
    # No request may see a dead child that is neither held nor restarted.
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

  # A request by the user for a held child ends the hold.
  defp request({action, id} = request, from, state)
       when action in [:terminate_child, :restart_child, :delete_child] do
    {result, rest} = split(:supervisor.handle_call(request, from, state))

    if result == :ok or elem(result, 0) == :ok do
      if action != :restart_child, do: Children.forget(id)
      Holds.Down.forget(self(), id, action, Callback.strategy() == :one_for_one)
    end

    reply(result, rest)
  end

  # The user may have decided otherwise since the releaser sent this request.
  defp request({Release, key, id}, {releaser, _} = from, state) do
    if Holds.Down.returns?(key, id, releaser) do
      request({:restart_child, id}, from, state)
    else
      {_, rest} = split(:supervisor.handle_call({:get_childspec, make_ref()}, from, state))
      reply({:error, :not_found}, rest)
    end
  end

  defp request(request, from, state), do: :supervisor.handle_call(request, from, state)

  # OTP retries a failed restart.
  @impl true
  def handle_cast(message, state),
    do: by_itself(state, fn -> :supervisor.handle_cast(message, state) end)

  @impl true
  def handle_info({:EXIT, pid, reason} = exit, state) do
    if Verdict.pending() != [] and strategy_takes_others?() do
      # A strategy acts on all children, so pending verdicts come first, one end after another. The exit goes
      # back into the mailbox, where OTP expects the exits of children it ends.
      send(self(), exit)
      with {:noreply, state} <- await_verdicts(state), do: idle(state)
    else
      exit(pid, reason, state)
    end
  end

  def handle_info({Verdict, pid}, state) do
    with {:noreply, state} <- settle_verdict(pid, state), do: idle(state)
  end

  # The application has started after this supervisor.
  def handle_info({Rejoin, from, ref}, state) do
    Callback.rejoin(Visit.lasts?(state))

    for {id, pid} when is_pid(pid) <- children(state),
        do: Child.rejoin(pid, id, options(pid, id, state))

    send(from, {Rejoin, ref})
    idle(state)
  end

  def handle_info({Children, pid, said}, state) do
    Children.said(pid, said)
    idle(state)
  end

  def handle_info(message, state), do: :supervisor.handle_info(message, state)

  @impl true
  def terminate(reason, state) do
    # OTP looks in the mailbox for the exits of the children it ends.
    for {pid, why} <- Enum.reverse(Verdict.pending()), do: send(self(), {:EXIT, pid, why})
    :supervisor.terminate(reason, state)
  end

  # As in OTP, with the module the release handler asks for.
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

  # A child started without the application has no entry.
  defp options(pid, id, state) do
    case Children.get(pid) do
      {_id, options} -> options
      nil -> Child.Spec.options(childspec(id, state).start)
    end
  end

  defp exit(pid, reason, state) do
    case Children.get(pid) do
      nil ->
        exited(pid, reason, state)

      {_id, options} = child ->
        case Verdict.on(pid, reason, options) do
          :memory ->
            hold(pid, child, state)

          :ended ->
            ended(pid, child, state)

          :unknown ->
            Verdict.wait_for(pid, reason)
            idle(state)

          :other ->
            left(pid, child, reason, state)
        end
    end
  end

  # The last running significant child may end in order while another is held and will come back. OTP
  # would take the held child for ended, and end this supervisor.
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

  defp await_verdicts(state) do
    if Verdict.pending() == [] do
      {:noreply, state}
    else
      receive do
        {Verdict, pid} ->
          with {:noreply, state} <- settle_verdict(pid, state), do: await_verdicts(state)
      end
    end
  end

  # For this child alone: the report on another child may be unread yet.
  defp settle_verdict(pid, state) do
    with {:ok, reason} <- Verdict.take(pid),
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

  # OTP handles the exit.
  defp exited(pid, reason, state) do
    result = by_itself(state, fn -> :supervisor.handle_info({:EXIT, pid, reason}, state) end)
    Children.ended(pid)
    result
  end

  # OTP may start and end children here.
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

  # Held children that are down. A child the user has started again counts as running.
  defp held(state) do
    case Holds.Down.ids(self()) do
      [] -> []
      held -> for {id, pid} <- children(state), not is_pid(pid), id in held, do: id
    end
  end

  defp keep(state), do: Children.keep(for {_, pid} <- children(state), is_pid(pid), do: pid)

  defp strategy_takes_others?, do: Callback.strategy() in [:one_for_all, :rest_for_one]

  defp hold(pid, {id, options}, state) do
    # The present specification: the code may have changed since the child's start.
    case childspec(id, state) do
      %{restart: :temporary} = spec ->
        forget(pid, spec, {:shutdown, :memory_pressure}, state)

      spec ->
        hold(pid, spec, options, state)
    end
  end

  defp hold(pid, spec, options, state) do
    if Visit.fatal?(state), do: end_all(pid, state), else: hold_unit(pid, spec, options, state)
  end

  # The end of a transient child in order would be none to OTP.
  defp end_all(pid, state) do
    Visit.ending(pid)
    exited(pid, :killed, state)
  end

  defp hold_unit(pid, spec, options, state) do
    unit = unit(spec.id, state)
    state = end_quietly(pid, spec, state)
    others = for {other, true} when other != spec.id <- Enum.reverse(unit), do: other
    state = Enum.reduce(others, state, &terminate_child/2)
    Holds.Down.hold(self(), spec.id, unit, pid, [return: :restart_held] ++ options)
    idle(state)
  end

  # A list of all children takes 50 ms among 100,000; where no child takes others down none is needed.
  defp unit(id, state) do
    if strategy_takes_others?() do
      running = for {id, pid} <- children(state), do: {id, is_pid(pid)}
      Units.together(Callback.strategy(), id, running)
    else
      [{id, true}]
    end
  end

  defp ended(pid, {id, options}, state) do
    case childspec(id, state) do
      %{restart: :permanent} = spec -> hold(pid, spec, options, state)
      spec -> forget(pid, spec, :shutdown, state)
    end
  end

  # As in OTP. The end of a significant child may end this supervisor.
  defp forget(pid, spec, reason, state) do
    case Visit.fate(spec.id, spec, state) do
      :waits ->
        pid |> end_quietly(spec, state) |> idle()

      :ends ->
        Visit.ending(pid)
        exited(pid, reason, state)

      :stays ->
        exited(pid, reason, state)
    end
  end
end
