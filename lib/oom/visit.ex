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

  alias OOM.{Holds, Tree}

  @strategies [:one_for_one, :one_for_all, :rest_for_one, :simple_one_for_one]
  @auto [:never, :any_significant, :all_significant]
  # Of more children nobody asks for the facts: it is one_for_one, or their order is a matter of ms.
  @many 1_000

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
  def take(supervisor, pid), do: run(supervisor, &taken(&1, pid))

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
    strategy = elem(state, 2)
    auto = Enum.find(@auto, :never, &(&1 in Tuple.to_list(state)))

    cond do
      strategy == :simple_one_for_one -> :dynamic
      ask(:count_children, state)[:specs] > @many -> {strategy, auto, []}
      true -> {strategy, auto, children(state)}
    end
  end

  defp read(_unknown), do: :dynamic

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

  # DynamicSupervisor forgets whom it terminates; the specification is what it takes to start it.
  defp taken(%{__struct__: DynamicSupervisor, children: children} = state, pid)
       when is_map_key(children, pid) do
    case children[pid] do
      {{_, _, args}, restart, _, _, _} = child when restart != :temporary and is_list(args) ->
        leave(pid)
        flush(pid)
        hold(pid, [{pid, true}], pid, {:start_child, child})
        %{state | children: Map.delete(children, pid)}

      _forgotten_as_ever ->
        throw(:temporary)
    end
  end

  defp taken(state, pid)
       when elem(state, 0) == :state and elem(state, 2) == :simple_one_for_one do
    with {:maps, %{^pid => args}} <- elem(state, 4),
         {:ok, %{restart: restart, start: {_, _, first}} = spec} when restart != :temporary <-
           ask({:get_childspec, pid}, state) do
      state = end_quietly(pid, pid, spec, state)
      hold(pid, [{pid, true}], pid, {:start_child, Enum.drop(args, length(first))})
      state
    else
      _ -> throw(:temporary)
    end
  end

  defp taken(state, pid) when elem(state, 0) == :state and elem(state, 2) in @strategies do
    children = Enum.reverse(ask(:which_children, state))

    with {id, _, _, _} <- List.keyfind(children, pid, 1),
         {:ok, %{restart: restart} = spec} when restart != :temporary <-
           ask({:get_childspec, id}, state) do
      unit = unit(elem(state, 2), id, for({id, pid, _, _} <- children, do: {id, is_pid(pid)}))
      state = end_quietly(pid, id, spec, state)
      others = for {other, true} when other != id <- Enum.reverse(unit), do: other
      state = Enum.reduce(others, state, &tell({:terminate_child, &1}, &2))
      hold(id, unit, pid, :restart_child)
      state
    else
      _ -> throw(:temporary)
    end
  end

  defp taken(_unknown, _pid), do: throw(:unknown)

  @doc "Which children go down with this one, of `{id, runs?}` in start order."
  @spec unit(atom(), term(), Holds.unit()) :: Holds.unit()
  def unit(:one_for_all, _id, children), do: children

  def unit(:rest_for_one, id, children),
    do: Enum.drop_while(children, fn {other, _} -> other != id end)

  def unit(_one_for_one, id, _children), do: [{id, true}]

  defp hold(id, unit, pid, return),
    do: Holds.hold(self(), id, unit, pid, [return: return] ++ options())

  defp options, do: self() |> Tree.options() |> Keyword.take([:backoff, :max_kills])

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
