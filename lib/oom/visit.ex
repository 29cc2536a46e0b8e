defmodule OOM.Visit do
  @moduledoc false
  # What is done in a supervisor that knows nothing of us, by its own consent: a system message
  # whose function runs there, between two of its messages. So nobody waits for it, however busy it
  # is; what it knows of its children is asked when it is right; and a visit that was sent before
  # its child's end is served before the supervisor hears of that.
  #
  # Only what OTP's supervisor answers to anyone is used (`which_children`, `get_childspec`,
  # `terminate_child`), besides the strategy; where its state looks like nothing we know, nothing is
  # done. A function that throws leaves the state as it is, and copies nothing of it. Nor does one
  # that returns: the answer goes to a name that nobody has.

  alias OOM.{Child, Holds, Tree, Units, Victims}

  @strategies [:one_for_one, :one_for_all, :rest_for_one, :simple_one_for_one]
  @auto [:never, :any_significant, :all_significant]
  # Of more children nobody asks for the facts: it is one_for_one, or their order is a matter of ms.
  @many 1_000
  # In a supervisor that is about to end: the child whose end is its end.
  @ends_with {__MODULE__, :ends_with}

  @type child :: %{
          id: term(),
          pid: pid() | nil,
          type: :worker | :supervisor,
          restart: :permanent | :transient | :temporary,
          significant: boolean()
        }
  @typedoc "Children in start order; `:tasks` of a `Task.Supervisor`."
  @type facts :: {strategy :: atom(), auto_shutdown :: atom(), [child()]} | :dynamic | :tasks

  @doc """
  Tells a supervisor that its child is about to be killed, without waiting. The child is ended
  there, and held where the supervisor would bring it back.
  """
  @spec take(pid(), pid()) :: :ok
  def take(supervisor, pid), do: run(supervisor, &taken(&1, pid, :killed))

  @doc """
  Called in a supervisor that is about to end, because a significant child of it was killed. To the
  one above it that is the end of a child like any other, so it is told, too.
  """
  @spec ending() :: :ok
  def ending do
    {me, parent} = {self(), Tree.Start.parent()}

    case Tree.kind(parent) do
      :supervisor -> run(parent, &taken(&1, me, :ended))
      :oom -> Victims.mark(me, System.monotonic_time(:millisecond), 0)
      _nobody_of_ours -> :ok
    end

    :ok
  end

  @doc """
  Called in a supervisor: what the end of a child makes of it that is not held. `:stays` or `:ends`,
  as OTP has it; but it does not end while another significant child is held, for that one is to
  come back (`:waits`).
  """
  @spec fate(term(), map(), tuple()) :: :stays | :ends | :waits
  def fate(id, spec, state) do
    case {Map.get(spec, :significant, false), auto(state)} do
      {true, :any_significant} -> :ends
      {true, :all_significant} -> id |> other_significant(state) |> fate()
      _ -> :stays
    end
  end

  @doc "Whether it ends when all its significant children have."
  @spec ends_with_all?(tuple()) :: boolean()
  def ends_with_all?(state), do: auto(state) == :all_significant

  defp fate(others) do
    {down, left} = Enum.split_with(others, &(&1.pid == nil or Victims.marked?(&1.pid)))
    held = Holds.Down.ids(self())

    cond do
      left != [] -> :stays
      # One that is being killed just now is held soon, unless it is temporary.
      Enum.any?(down, &(&1.id in held or (&1.pid != nil and &1.restart == :transient))) -> :waits
      true -> :ends
    end
  end

  defp other_significant(id, state),
    do: for(%{significant: true} = child <- children(state), child.id != id, do: child)

  @doc "What a supervisor knows of its children; `nil` where it does not answer in time."
  @spec facts(pid(), timeout()) :: facts() | nil
  def facts(supervisor, timeout_ms) do
    alias = :erlang.alias([:reply])

    run(supervisor, fn state ->
      send(alias, {alias, read(state)})
      throw(:read)
    end)

    receive do
      {^alias, facts} -> facts
    after
      timeout_ms ->
        :erlang.unalias(alias)
        receive(do: ({^alias, facts} -> facts), after: (0 -> nil))
    end
  end

  defp run(supervisor, fun) do
    send(supervisor, {:system, {__MODULE__.Nobody, make_ref()}, {:replace_state, fun}})
    :ok
  end

  defp read(%{__struct__: DynamicSupervisor, mod: Task.Supervisor}), do: :tasks
  defp read(%{__struct__: DynamicSupervisor}), do: :dynamic

  defp read(state) when elem(state, 0) == :state and elem(state, 2) in @strategies do
    {strategy, auto} = {elem(state, 2), auto(state)}

    cond do
      strategy == :simple_one_for_one -> :dynamic
      ask(:count_children, state)[:specs] > @many -> {strategy, auto, []}
      true -> {strategy, auto, children(state)}
    end
  end

  defp read(_unknown), do: :dynamic

  defp auto(state), do: Enum.find(@auto, :never, &(&1 in Tuple.to_list(state)))

  defp children(state) do
    for {id, pid, type, _} <- Enum.reverse(ask(:which_children, state)) do
      {:ok, spec} = ask({:get_childspec, id}, state)

      %{
        id: id,
        pid: if(is_pid(pid), do: pid),
        type: type,
        restart: spec.restart,
        significant: Map.get(spec, :significant, false)
      }
    end
  end

  # Who would be brought back: one that was killed is no different from one that crashed, and the
  # end of a supervisor is one in order.
  defp held?(restart, :killed), do: restart != :temporary
  defp held?(restart, :ended), do: restart == :permanent

  # DynamicSupervisor forgets whom it terminates; the specification is what it takes to start it.
  defp taken(%{__struct__: DynamicSupervisor, children: children} = state, pid, why)
       when is_map_key(children, pid) do
    {{_, _, args} = start, restart, _, _, _} = child = children[pid]

    if held?(restart, why) and is_list(args) do
      leave(pid)
      flush(pid)
      hold(pid, [{pid, true}], pid, start, {:start_child, child})
      %{state | children: Map.delete(children, pid)}
    else
      throw(:forgotten_as_ever)
    end
  end

  defp taken(state, pid, why)
       when elem(state, 0) == :state and elem(state, 2) == :simple_one_for_one do
    with {:maps, %{^pid => args}} <- elem(state, 4),
         {:ok, %{start: {_, _, first}} = spec} <- ask({:get_childspec, pid}, state),
         true <- held?(spec.restart, why) do
      state = end_quietly(pid, pid, spec, state)
      hold(pid, [{pid, true}], pid, spec.start, {:start_child, Enum.drop(args, length(first))})
      state
    else
      _ -> throw(:forgotten_as_ever)
    end
  end

  defp taken(state, pid, why) when elem(state, 0) == :state and elem(state, 2) in @strategies do
    children = Enum.reverse(ask(:which_children, state))

    with {id, _, _, _} <- List.keyfind(children, pid, 1),
         {:ok, spec} <- ask({:get_childspec, id}, state) do
      cond do
        not held?(spec.restart, why) -> forget(pid, id, spec, state)
        # It goes with the supervisor, and must not take along whose end ends that.
        ending?(children) -> end_quietly(pid, id, spec, state)
        true -> hold_with_others(pid, id, spec, children, state)
      end
    else
      _ -> throw(:unknown)
    end
  end

  defp taken(_unknown, _pid, _why), do: throw(:unknown)

  # Those above were told that it ends. A child that a strategy terminated before would not end it.
  defp ending?(children), do: List.keymember?(children, Process.get(@ends_with), 1)

  defp hold_with_others(pid, id, spec, children, state) do
    running = for {id, pid, _, _} <- children, do: {id, is_pid(pid)}
    unit = Units.together(elem(state, 2), id, running)
    state = end_quietly(pid, id, spec, state)
    others = for {other, true} when other != id <- Enum.reverse(unit), do: other
    state = Enum.reduce(others, state, &tell({:terminate_child, &1}, &2))
    hold(id, unit, pid, spec.start, :restart_child)
    state
  end

  defp forget(pid, id, spec, state) do
    case fate(id, spec, state) do
      :waits ->
        end_quietly(pid, id, spec, state)

      :ends ->
        Process.put(@ends_with, pid)
        ending()
        throw(:ends)

      :stays ->
        throw(:forgotten_as_ever)
    end
  end

  defp hold(id, unit, pid, start, return),
    do: Holds.Down.hold(self(), id, unit, pid, [return: return] ++ options(start))

  # The child's own, or what holds for all that are here.
  defp options(start) do
    Tree.Start.here()
    |> Keyword.merge(Child.Spec.options(start))
    |> Keyword.take([:backoff, :max_kills])
  end

  # From its parent, so that one that traps exits leaves in order; and before anything else ends it,
  # so that this is what links and monitors see.
  defp leave(pid) do
    Process.exit(pid, {:shutdown, :memory_pressure})
    Process.unlink(pid)
  end

  defp flush(pid) do
    receive do
      {:EXIT, ^pid, _} -> :ok
    after
      0 -> :ok
    end
  end

  # As OOM.Supervisor.Server does: with the exit that terminate_child expects, it leaves the
  # specification, restarts nothing, and reports nothing.
  defp end_quietly(pid, id, spec, state) do
    leave(pid)
    flush(pid)
    expected = if Map.get(spec, :shutdown) == :brutal_kill, do: :killed, else: :shutdown
    send(self(), {:EXIT, pid, expected})
    tell({:terminate_child, id}, state)
  end

  # From OTP 28 on an action may follow the state.
  defp ask(request, state),
    do: elem(:supervisor.handle_call(request, {self(), make_ref()}, state), 1)

  defp tell(request, state),
    do: elem(:supervisor.handle_call(request, {self(), make_ref()}, state), 2)
end
