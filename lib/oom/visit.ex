defmodule OOM.Visit do
  @moduledoc false
  # Runs a function inside a plain supervisor, in a system message handled between two of the supervisor's
  # messages. The sender does not wait, however busy the supervisor is. The function sees a consistent list
  # of children. A visit sent before a child's end is served before the supervisor hears of that end.
  #
  # A visit reads strategy, auto_shutdown and the map of dynamic children from the supervisor's state. For
  # all else, a visit uses requests OTP's supervisor answers to any caller (`which_children`,
  # `get_childspec`, `terminate_child`). A visit to a state of unknown shape does nothing. A function that
  # throws leaves the state unchanged and copies nothing. A function that returns copies nothing either:
  # the reply goes to a name no process has.

  alias OOM.{Child, Holds, Tree, Units, Victims, Workers}
  alias OOM.Visit.Copy

  @strategies [:one_for_one, :one_for_all, :rest_for_one, :simple_one_for_one]
  @auto [:never, :any_significant, :all_significant]
  # No facts of more children are read: the strategy is one_for_one, or their order is a matter of ms.
  @many 1_000
  # Kept in a supervisor about to end: the child whose end ends the supervisor.
  @ends_with {__MODULE__, :ends_with}

  @type child :: %{
          id: term(),
          pid: pid() | nil,
          type: :worker | :supervisor,
          restart: :permanent | :transient | :temporary,
          significant: boolean(),
          fatal: boolean()
        }
  @typedoc """
  Children in start order; `:dynamic` without such a list, `:tasks` of a `Task.Supervisor`. A kill of a `fatal`
  child ends the supervisor, which may restart no child at all; `auto_shutdown` is then `:intensity`, unless
  declared.
  """
  @type facts :: {strategy :: atom(), auto_shutdown :: atom(), [child()]} | :dynamic | :tasks

  @doc """
  Tells a supervisor, without waiting, that its child `pid` is about to be killed. The supervisor ends
  the child, and holds a child due for a restart.
  """
  @spec take(pid(), pid()) :: :ok
  def take(supervisor, pid), do: run(supervisor, &taken(&1, pid, :killed))

  @doc """
  Called in a supervisor about to end because its child `victim` was killed. Tells the supervisor above, which
  otherwise sees an ordinary child end. What comes back later is as large as the victim.
  """
  @spec ending(pid()) :: :ok
  def ending(victim) do
    {me, parent, bytes} = {self(), Tree.Start.parent(), Victims.bytes(victim)}

    case above(parent) do
      nil -> :ok
      {:worker, supervisor} -> ends(parent, supervisor, :killed, bytes)
      _supervisor -> ends(me, parent, :ended, bytes)
    end
  end

  defp ends(pid, supervisor, why, bytes) do
    Victims.mark(pid, now(), bytes)
    if Tree.consents?(supervisor), do: run(supervisor, &taken(&1, pid, why)), else: :ok
  end

  # The process above can hold the calling supervisor: a supervisor holds a child; a worker that has started the
  # calling supervisor ends too, and is held by the worker's supervisor.
  defp above(parent) do
    cond do
      Tree.kind(parent) in [:supervisor, :oom] -> :supervisor
      supervisor = is_pid(parent) && Workers.supervisor_of(parent) -> {:worker, supervisor}
      true -> nil
    end
  end

  @doc """
  Called in a supervisor: tells whether the kill of a permanent or transient child must end the supervisor. With
  no restart allowed (intensity 0), the end of the supervisor restarts the siblings, too, which may depend on
  the child. With no supervisor above to hold the whole, only the child is held.
  """
  @spec fatal?(tuple()) :: boolean()
  def fatal?(state), do: fatal_at?(intensity(state))

  @doc "The same for a supervisor of this intensity, also before its start is through."
  @spec fatal_at?(non_neg_integer()) :: boolean()
  def fatal_at?(intensity), do: intensity == 0 and above(Tree.Start.parent()) != nil

  # The record of OTP's supervisor, whose strategy `read/1` has checked.
  defp intensity(state), do: elem(state, 5)

  @doc """
  Called in a supervisor: returns the effect of the end of a child that is not held. `:stays` and `:ends`
  are OTP's answers. `:waits` replaces `:ends` while another significant child is held and will come back.
  """
  @spec fate(term(), map(), tuple()) :: :stays | :ends | :waits
  def fate(id, spec, state) do
    case {Map.get(spec, :significant, false), auto(state)} do
      {true, :any_significant} -> :ends
      {true, :all_significant} -> id |> other_significant(state) |> fate()
      _ -> :stays
    end
  end

  @doc "Called in a supervisor: tells whether no end of a child ends the supervisor."
  @spec lasts?(tuple()) :: boolean()
  def lasts?(state), do: auto(state) == :never and not fatal?(state)

  @doc "Tells whether a supervisor ends after the end of all its significant children."
  @spec ends_with_all?(tuple()) :: boolean()
  def ends_with_all?(state), do: auto(state) == :all_significant

  defp fate(others) do
    {down, left} = Enum.split_with(others, &(&1.pid == nil or Victims.marked?(&1.pid)))
    held = Holds.Down.ids(self())

    cond do
      left != [] -> :stays
      # A child being killed just now is held soon, unless temporary.
      Enum.any?(down, &(&1.id in held or (&1.pid != nil and &1.restart == :transient))) -> :waits
      true -> :ends
    end
  end

  defp other_significant(id, state),
    do: for(%{significant: true} = child <- children(state), child.id != id, do: child)

  @doc "Returns the facts of a supervisor; `nil` without an answer within `timeout_ms`."
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

  @doc "Asks a supervisor to start a child that OOM.Visit.Copy holds; waits until the start is over."
  @spec start(pid(), pid()) :: {:ok, pid()} | {:error, term()}
  def start(supervisor, pid) do
    # The answer ends the monitor.
    ref = :erlang.monitor(:process, supervisor, alias: :reply_demonitor)

    run(supervisor, fn state ->
      {answer, state} = Copy.start(state, pid)
      send(ref, {ref, answer})
      state
    end)

    receive do
      {^ref, answer} -> answer
      {:DOWN, ^ref, _, _, reason} -> {:error, reason}
    end
  end

  defp run(supervisor, fun) do
    send(supervisor, {:system, {__MODULE__.Nobody, make_ref()}, {:replace_state, fun}})
    :ok
  end

  defp read(%{__struct__: DynamicSupervisor, mod: Task.Supervisor}), do: :tasks
  defp read(%{__struct__: DynamicSupervisor}), do: :dynamic

  defp read(state) when elem(state, 0) == :state and elem(state, 2) in @strategies do
    {strategy, auto, fatal?} = {elem(state, 2), auto(state), fatal?(state)}
    auto = if fatal? and auto == :never, do: :intensity, else: auto

    cond do
      strategy == :simple_one_for_one -> :dynamic
      ask(:count_children, state)[:specs] > @many -> {strategy, auto, []}
      true -> {strategy, auto, children(state)}
    end
  end

  defp read(_unknown), do: :dynamic

  defp auto(state), do: Enum.find(@auto, :never, &(&1 in Tuple.to_list(state)))

  defp children(state) do
    fatal? = fatal?(state)

    for {id, pid, type, _} <- Enum.reverse(ask(:which_children, state)) do
      {:ok, spec} = ask({:get_childspec, id}, state)

      %{
        id: id,
        pid: if(is_pid(pid), do: pid),
        type: type,
        restart: spec.restart,
        significant: Map.get(spec, :significant, false),
        fatal: fatal? and spec.restart != :temporary
      }
    end
  end

  # Whether the supervisor would restart the child. A kill counts as a crash; the end of a supervisor
  # counts as orderly.
  defp held?(restart, :killed), do: restart != :temporary
  defp held?(restart, :ended), do: restart == :permanent

  # DynamicSupervisor forgets a terminated child, so the hold keeps the specification for the next start.
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
        # The child ends with the supervisor, and must not take down the child whose end ends the supervisor.
        ending?(children) -> end_quietly(pid, id, spec, state)
        fatal?(state) -> end_all(pid, spec, state)
        true -> hold_with_others(pid, id, spec, children, state)
      end
    else
      _ -> throw(:unknown)
    end
  end

  defp taken(state, pid, why) do
    with {:ok, start, restart} <- Copy.child(state, pid),
         true <- held?(restart, why) do
      leave(pid)
      flush(pid)
      hold(pid, [{pid, true}], pid, start, {:gen_restart, pid})
      Copy.down(state, pid)
    else
      _ -> throw(:unknown)
    end
  end

  # The supervisors above know of the end already. A strategy must not terminate that child first, because
  # then the supervisor would go on.
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
        ends_with(pid)
        throw(:ends)

      :stays ->
        throw(:forgotten_as_ever)
    end
  end

  # OTP ends the supervisor for the child's exit. The end of a transient child in order would be none to OTP.
  defp end_all(pid, spec, state) do
    ends_with(pid)
    if spec.restart == :permanent, do: throw(:ends)
    leave(pid)
    flush(pid)
    send(self(), {:EXIT, pid, :killed})
    state
  end

  defp ends_with(pid) do
    Process.put(@ends_with, pid)
    ending(pid)
  end

  defp hold(id, unit, pid, start, return),
    do: Holds.Down.hold(self(), id, unit, pid, [return: return] ++ options(start))

  # The child's own options, or the options of all children here.
  defp options(start) do
    Tree.Start.here()
    |> Keyword.merge(Child.Spec.options(start))
    |> Keyword.take([:backoff, :max_kills])
  end

  # The exit comes from the parent, so a child that traps exits leaves in order. The exit comes before any
  # other end, so links and monitors see this reason.
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

  # As in OOM.Supervisor.Server: terminate_child finds the exit it expects, leaves the specification,
  # restarts nothing and reports nothing.
  defp end_quietly(pid, id, spec, state) do
    leave(pid)
    flush(pid)
    expected = if Map.get(spec, :shutdown) == :brutal_kill, do: :killed, else: :shutdown
    send(self(), {:EXIT, pid, expected})
    tell({:terminate_child, id}, state)
  end

  # From OTP 28 on, an action may follow the state.
  defp ask(request, state),
    do: elem(:supervisor.handle_call(request, {self(), make_ref()}, state), 1)

  defp tell(request, state),
    do: elem(:supervisor.handle_call(request, {self(), make_ref()}, state), 2)

  defp now, do: System.monotonic_time(:millisecond)
end
