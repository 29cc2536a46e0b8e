defmodule OOM.Tree.Walk do
  @moduledoc false
  # Finds whoever came below an OOM.Supervisor without a word to us: one look at all processes, in a
  # throw-away process (OOM.Tree.Census). Each new one is classified once, by the nearest of its
  # ancestors that is known: below a supervisor it is another one, or a worker with what was declared
  # above it; what a worker has started is the worker's own (OOM.Owned.Children).
  #
  # What is asked of a process is read without a signal to it unless it just runs (0.6 us here).
  # Only of the few that trap exits, as every supervisor does, the dictionary is read.

  alias OOM.{Bonds, InitialCall, Tree, Units, Victims, Visit, Workers}

  # Supervisors with a loop of their own, that nobody may have declared to be one.
  @special [:ranch_conns_sup]
  # Linked with whoever uses them: their end is the end of all those, who can be killed one by one.
  @linked [Registry.Partition]
  # Further up nobody looks, whoever started or awaits whom.
  @generations 16
  # Of so many new tasks it is asked in one walk whom their end would take along.
  @tasks 1_000
  # Longer than a supervisor that is not starting a child takes to answer, on a busy machine, too: one
  # that has not answered cannot keep its children from being killed beside a protected one.
  @facts_ms 250

  @typedoc """
  How many processes there are, how many of them were new workers, and whom the next walk can pass
  by: they have their place, and it does not change.
  """
  @type result :: %{all: non_neg_integer(), found: non_neg_integer(), settled: [pid()]}

  @doc "One walk, past those that were settled at the last."
  @spec run([pid()]) :: result()
  def run(settled \\ []) do
    Tree.prune()
    # The list comes nearly sorted, and to take one from the other is ten times cheaper than to
    # look each of them up.
    pids = :lists.sort(Process.list())
    state = Enum.reduce(:ordsets.subtract(pids, settled), new(), &visit/2)
    ask_changed(state)
    _ = bind(state.tasks)
    Units.refresh()

    # Whose supervisor has not told of itself yet has no place, and is looked at again.
    %{
      all: length(pids),
      found: state.found,
      settled: :ordsets.subtract(pids, :lists.sort(state.outside))
    }
  end

  defp new, do: %{seen: %{}, found: 0, asked: %{}, outside: [], tasks: []}

  defp visit(pid, state) do
    case place(pid, state, 0) do
      {nowhere, state} when nowhere in [:outside, :too_far] ->
        %{state | outside: [pid | state.outside]}

      # It told of itself. To its supervisor's facts it is as new as one that was found.
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

  # Whose a process is: {:worker, pid}, {:supervisor, pid, options}, or :outside.
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
    # It was said to be a supervisor; of what kind tells how it is told of a kill.
    kind = trapping(InitialCall.of_supervisor(pid), :supervisor)
    Tree.put_kind(pid, kind)
    {{:supervisor, pid, kind, options}, changed(pid, kind, state)}
  end

  defp known({pid, :worker, _, _, _}, state), do: {{:worker, pid}, state}
  defp known({pid, kind, _, options, _}, state), do: {{:supervisor, pid, kind, options}, state}

  defp below(pid, parent, state, generation) do
    case whose(parent, state, generation) do
      {{:supervisor, supervisor, kind, options}, state} when supervisor == parent ->
        classify(pid, parent, kind, options, state)

      {place, state} ->
        {if(generation == 0 and place == :too_far, do: :outside, else: place), state}
    end
  end

  # Siblings have the same answer, so a parent is looked up once.
  defp whose(parent, %{seen: seen} = state, _generation) when is_map_key(seen, parent),
    do: {seen[parent], state}

  defp whose(parent, state, generation) do
    {place, state} = place(parent, state, generation + 1)
    {place, state} = corrected(place, parent, state)
    # What is too far for this one need not be for its parent's other children.
    seen = if place == :too_far, do: state.seen, else: Map.put(state.seen, parent, place)
    {place, %{state | seen: seen}}
  end

  # A worker with children is looked at once: it may have been met before it began to trap exits,
  # or its specification did not say that it is a supervisor. That was declared all the same.
  defp corrected({:worker, parent} = place, parent, state) do
    with nil <- Tree.lookup(parent),
         {:supervisor, _, _} <- InitialCall.of(parent),
         true <- Tree.no_worker(parent) do
      {{:supervisor, parent, :supervisor, Tree.options(parent)},
       changed(parent, :supervisor, state)}
    else
      # It was looked at already, or is a unit.
      {_, _kind, _, _, _} ->
        {place, state}

      _no_supervisor ->
        Tree.put_new(parent, :worker, nil, [])
        {place, state}
    end
  end

  defp corrected(place, _parent, state), do: {place, state}

  # An OOM.Supervisor tells of its children itself; until it has, they are just starting.
  defp classify(_pid, _parent, :oom, _options, state), do: {:outside, state}

  defp classify(pid, parent, kind, options, state) do
    facts = facts(parent)

    case Victims.marked?(pid) || role(pid, type(facts, pid)) do
      true ->
        {:outside, state}

      new when new in [:supervisor, :special] ->
        Tree.put_new(pid, new, parent, options)

        {{:supervisor, pid, new, options},
         pid |> changed(new, state) |> then(&changed(parent, kind, &1))}

      role ->
        Workers.found(pid, rank(role, Tree.rank(options)), parent)
        state = if facts == :tasks, do: %{state | tasks: [pid | state.tasks]}, else: state
        state = changed(parent, kind, state)
        {{:worker, pid}, %{state | found: state.found + 1}}
    end
  end

  defp rank(:linked, _rank), do: :protected
  defp rank(:worker, rank), do: rank

  # Who awaits a task is linked with it, and ends with it: the task is worth as much. Other workers
  # are not linked with those they work for as a matter of course, and are asked in their turn
  # (OOM.Bonds.Rounds).
  defp bind(tasks), do: for(pid <- Enum.take(tasks, @tasks), do: Units.bind(pid, Bonds.rank(pid)))

  defp role(pid, type) do
    case {:erlang.process_info(pid, :trap_exit), type} do
      {{_, true}, :supervisor} -> trapping(InitialCall.of_supervisor(pid), type)
      {{_, true}, type} -> trapping(InitialCall.of(pid), type)
      {_, :supervisor} -> :special
      _ -> :worker
    end
  end

  defp trapping({:supervisor, _, _}, _type), do: :supervisor
  defp trapping({module, _, _}, _type) when module in @special, do: :special
  defp trapping(_call, :supervisor), do: :special
  defp trapping({module, _, _}, _type) when module in @linked, do: :linked
  defp trapping(_call, _type), do: :worker

  defp facts(supervisor) do
    with row when row != nil <- Tree.lookup(supervisor), do: elem(row, 4)
  end

  # What its supervisor's specification says of it, as far as that is known.
  defp type({_, _, children}, pid), do: Enum.find_value(children, &(&1.pid == pid && &1.type))
  defp type(_unknown, _pid), do: nil

  # A new child below it: its facts are no longer what they were.
  defp changed(pid, kind, state) when kind in [:supervisor, :oom] do
    case Tree.lookup(pid) do
      {_, _, _, _, dynamic} when dynamic in [:dynamic, :tasks] -> state
      # Types are needed to classify its children, so the first time it is asked at once.
      {_, _, _, _, nil} when not is_map_key(state.asked, pid) -> ask(pid, state)
      _ -> %{state | asked: Map.put_new(state.asked, pid, :again)}
    end
  end

  defp changed(_pid, _kind, state), do: state

  defp ask(pid, state) do
    case Visit.facts(pid, @facts_ms) do
      nil -> Tree.put_busy(pid)
      facts -> Tree.put_facts(pid, facts)
    end

    %{state | asked: Map.put(state.asked, pid, :asked)}
  end

  # And OOM.Supervisors, whose children come without us.
  defp ask_changed(state) do
    for {pid, :again} <- state.asked, do: _ = ask(pid, state)

    for {pid, :oom, _, _, facts} <- Tree.all(), depends?(facts), do: _ = ask(pid, state)
    for pid <- Tree.all_busy(), not is_map_key(state.asked, pid), do: _ = ask(pid, state)

    :ok
  end

  defp depends?({:one_for_one, :never, _}), do: false
  defp depends?(dynamic) when dynamic in [:dynamic, :tasks], do: false
  defp depends?(_unknown_or_more), do: true
end
