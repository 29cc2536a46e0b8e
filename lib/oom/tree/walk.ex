defmodule OOM.Tree.Walk do
  @moduledoc false
  # Finds processes below an OOM.Supervisor that have not registered: one look at all processes, in a
  # throw-away process (OOM.Tree.Census). Each new process is classified once, by its nearest known
  # ancestor. Below a supervisor, the process is a supervisor, or a worker with the options declared
  # above (OOM.Tree.Role). A process started by a worker is the worker's own (OOM.Owned.Children).

  alias OOM.{Bonds, InitialCall, Newcomers, Probe, Tree, Units, Victims, Visit, Workers}
  alias OOM.Tree.{Pool, Role, Settled}

  # The search through ancestors stops here, whoever started or awaits whom.
  @generations 16
  # The most newcomers whose figures a walk reads, some microseconds each.
  @read 500
  # The most new tasks a walk checks for processes bound to them.
  @tasks 1_000
  # Longer than a supervisor takes to answer unless it is starting a child, on a busy machine too. A
  # supervisor without an answer cannot spare the siblings of a protected child.
  @facts_ms 250

  @typedoc "The number of all processes, and of the new workers among them."
  @type result :: %{all: non_neg_integer(), found: non_neg_integer()}

  @doc """
  Walks once over all processes that are not settled, and settles each process with a place. With `recent?` the
  last walk was just now, so a new worker is a newcomer, and the walk reads its figure at once.
  """
  @spec run(Settled.t(), boolean()) :: result()
  def run(settled, recent? \\ false) do
    Tree.prune()
    pids = Process.list()
    all = length(pids)
    # In the order of birth: the newest workers are read first.
    state = settled |> Settled.begin(pids) |> Enum.sort() |> Enum.reduce(new(recent?), &visit/2)
    _ = if recent?, do: sample(state.found)
    state = ask_changed(state)
    _ = bind(state.tasks)

    # The guard reads the facts as soon as the table has them, so the floors that follow from them come first.
    Units.refresh(state.facts)
    for {pid, facts} <- state.facts, do: Tree.put_facts(pid, facts)

    # A process whose supervisor has not registered yet has no place, and is looked at again.
    Settled.finish(settled, state.outside)
    %{all: all, found: length(state.found)}
  end

  defp new(recent?),
    do: %{recent?: recent?, seen: %{}, found: [], asked: %{}, facts: %{}, outside: [], tasks: []}

  defp found(pid, rank, supervisor, %{recent?: recent?}) do
    Workers.found(pid, rank, supervisor)
    if recent?, do: Newcomers.note(pid), else: :ok
  end

  # The newest pids stand first in the list. The accountant reads the rest.
  defp sample(found) do
    now = System.monotonic_time(:millisecond)
    for pid <- Enum.take(found, @read), do: Probe.sample(pid, now)
  end

  defp visit(pid, state) do
    case place(pid, state, 0) do
      {nowhere, state} when nowhere in [:outside, :too_far] ->
        %{state | outside: [pid | state.outside]}

      # The worker has registered itself, but is new to the facts of its supervisor.
      {{:worker, ^pid}, state} ->
        told(Workers.lookup(pid), state)

      {_place, state} ->
        state
    end
  end

  defp told({_, _, _, _, _, supervisor, _, _, _}, state) when supervisor != nil do
    case Tree.kind(supervisor) do
      :supervisor -> changed(supervisor, :supervisor, state)
      _ -> state
    end
  end

  defp told(_, state), do: state

  # The place of a process: {:worker, pid}, {:supervisor, pid, kind, options}, :outside or :too_far.
  defp place(pid, state, generation) do
    cond do
      Workers.member?(pid) ->
        {{:worker, pid}, state}

      generation == @generations ->
        {:too_far, state}

      true ->
        case Tree.lookup(pid) do
          row when row == nil or elem(row, 1) in [:inside, :aside] -> up(pid, state, generation)
          row -> known(row, state)
        end
    end
  end

  defp up(pid, state, generation) do
    case Tree.parent(pid) do
      nil -> {:outside, state}
      parent -> below(pid, parent, state, generation)
    end
  end

  defp known({pid, :unknown, _, options, _}, state) do
    # Declared as a supervisor; the kind decides how the supervisor is told of a kill.
    kind = Role.of_supervisor(pid)
    Tree.put_kind(pid, kind)
    {{:supervisor, pid, kind, options}, changed(pid, kind, state)}
  end

  defp known({pid, :worker, _, _, _}, state), do: {{:worker, pid}, state}
  defp known({pid, kind, _, options, _}, state), do: {{:supervisor, pid, kind, options}, state}

  defp below(pid, parent, state, generation) do
    case whose(parent, state, generation) do
      {{:supervisor, supervisor, kind, options}, state} when supervisor == parent ->
        classify(pid, parent, kind, options, state)

      {{:worker, worker} = place, state} when worker == parent ->
        pooled(pid, worker, place, state)

      {place, state} ->
        {if(generation == 0 and place == :too_far, do: :outside, else: place), state}
    end
  end

  defp pooled(pid, worker, place, state) do
    # The processes of a pool have the worker's own rank. A worker that has just ended has none.
    with [_ | _] = members <- Pool.members(pid, worker),
         rank when rank != nil <- Units.own(worker) do
      for member <- members, do: found(member, rank, worker, state)
      {{:worker, pid}, %{state | found: members ++ state.found}}
    else
      _no_pool -> {place, state}
    end
  end

  # Siblings have the same answer, so each parent is looked up once.
  defp whose(parent, %{seen: seen} = state, _generation) when is_map_key(seen, parent),
    do: {seen[parent], state}

  defp whose(parent, state, generation) do
    {place, state} = place(parent, state, generation + 1)
    {place, state} = corrected(place, parent, state)
    # A parent too far from this process may be near enough to other children.
    seen = if place == :too_far, do: state.seen, else: Map.put(state.seen, parent, place)
    {place, %{state | seen: seen}}
  end

  # A worker with children is looked at once. The worker may have been found before it began to trap exits,
  # or its specification did not declare a supervisor. The declared options apply all the same.
  defp corrected({:worker, parent} = place, parent, state) do
    with nil <- Tree.lookup(parent),
         {:supervisor, _, _} <- InitialCall.of(parent),
         true <- Tree.no_worker(parent) do
      {{:supervisor, parent, :supervisor, Tree.options(parent)},
       changed(parent, :supervisor, state)}
    else
      # The process was looked at already, or is a unit.
      {_, _kind, _, _, _} ->
        {place, state}

      _no_supervisor ->
        Tree.put_new(parent, :worker, nil, [])
        {place, state}
    end
  end

  # A worker may start a supervisor, as Broadway does. The children of this supervisor are workers with figures
  # and holds of their own, and with the rank of the first worker. A unit stays one worker, with all inside.
  defp corrected({:worker, worker} = place, pid, state) do
    with nil <- Tree.lookup(pid),
         true <- Tree.kind(worker) != :unit,
         {_, true} <- :erlang.process_info(pid, :trap_exit),
         {:supervisor, _, _} <- InitialCall.of_supervisor(pid) do
      options = Tree.options_below(worker)
      Tree.put_new(pid, :supervisor, Workers.supervisor_of(worker) || worker, options)
      {{:supervisor, pid, :supervisor, options}, changed(pid, :supervisor, state)}
    else
      _ -> {place, state}
    end
  end

  defp corrected(place, _parent, state), do: {place, state}

  # An OOM.Supervisor registers its children itself. Unregistered children are just starting.
  defp classify(_pid, _parent, :oom, _options, state), do: {:outside, state}

  defp classify(pid, parent, kind, options, state) do
    facts = facts(parent, state)
    options = Role.ruled(options, pid, facts)

    case Victims.marked?(pid) || Role.of(pid, type(facts, pid)) do
      true ->
        {:outside, state}

      new when new in [:supervisor, :special] ->
        Tree.put_new(pid, new, parent, options)

        {{:supervisor, pid, new, options},
         pid |> changed(new, state) |> then(&changed(parent, kind, &1))}

      role ->
        found(pid, Role.rank(role, Tree.rank(options)), parent, state)
        state = if facts == :tasks, do: %{state | tasks: [pid | state.tasks]}, else: state
        state = changed(parent, kind, state)
        {{:worker, pid}, %{state | found: [pid | state.found]}}
    end
  end

  # A process that awaits a task is linked with the task and ends with it, so the task gets the rank of that
  # process. Other workers are seldom linked with the processes they serve, and OOM.Bonds.Rounds checks them.
  defp bind(tasks), do: for(pid <- Enum.take(tasks, @tasks), do: Units.bind(pid, Bonds.rank(pid)))

  # The facts that this walk has read, or else the facts of an earlier walk.
  defp facts(supervisor, %{facts: facts}) when is_map_key(facts, supervisor),
    do: facts[supervisor]

  defp facts(supervisor, _state),
    do: with(row when row != nil <- Tree.lookup(supervisor), do: elem(row, 4))

  # The type in the supervisor's specification, if known.
  defp type({_, _, children}, pid), do: Enum.find_value(children, &(&1.pid == pid && &1.type))
  defp type(_unknown, _pid), do: nil

  # The supervisor has a new child, so its facts are out of date.
  defp changed(pid, kind, state) when kind in [:supervisor, :oom] do
    case facts(pid, state) do
      dynamic when dynamic in [:dynamic, :tasks] -> state
      # The types are needed to classify the children, so the first request comes at once.
      nil when not is_map_key(state.asked, pid) -> ask(pid, state)
      _ -> %{state | asked: Map.put_new(state.asked, pid, :again)}
    end
  end

  defp changed(_pid, _kind, state), do: state

  defp ask(pid, state) do
    state = %{state | asked: Map.put(state.asked, pid, :asked)}

    case Visit.facts(pid, @facts_ms) do
      nil ->
        Tree.put_busy(pid)
        state

      facts ->
        %{state | facts: Map.put(state.facts, pid, facts)}
    end
  end

  # Each walk asks the supervisors with dependent children, because a child may register without a walk: the
  # children of an OOM.Supervisor do, and so does a supervisor once a child below has registered.
  defp ask_changed(state) do
    again = for {pid, :again} <- state.asked, do: pid

    dependent =
      for {pid, kind, _, _, facts} <- Tree.all(),
          kind in [:oom, :supervisor],
          depends?(facts),
          do: pid

    due = Enum.uniq(again ++ dependent ++ Tree.all_busy())
    due = Enum.reject(due, &(state.asked[&1] == :asked))
    Enum.reduce(due, state, &ask/2)
  end

  defp depends?({:one_for_one, :never, _}), do: false
  defp depends?(dynamic) when dynamic in [:dynamic, :tasks], do: false
  defp depends?(_unknown_or_more), do: true
end
