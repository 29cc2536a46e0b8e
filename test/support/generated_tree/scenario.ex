defmodule OOM.Test.GeneratedTree.Scenario do
  @moduledoc false
  # A generated tree under pressure: rounds of kills with returns between, and crashes; and the
  # invariants of every scenario.

  import ExUnit.Assertions

  alias OOM.{Level, Priority, Tree, Victims, Workers}
  alias OOM.Test.{GeneratedTree, Pressure}
  alias OOM.Test.GeneratedTree.{Births, Model, Running}
  alias OOM.Tree.Census

  @min_bytes 16_384
  # The next higher class is not picked from until a measure has shown the memory the last class
  # gave back.
  @next_ms 100
  @deadline_ms 10_000

  @doc "Runs the scenario; returns the number of kills."
  @spec run(GeneratedTree.t(), non_neg_integer()) :: non_neg_integer()
  def run(tree, crashes) do
    Process.delete(__MODULE__)
    model = Model.new(tree)
    crashing = crashing(tree, crashes)
    restarts = Enum.frequencies_by(crashing, &Model.parent/1)
    running = Running.start(tree, restarts)

    state = %{
      running: running,
      model: model,
      restarts: restarts,
      kills: 0,
      settled?: true,
      # the processes at the last walk, and their ranks
      walked: {%{}, %{}},
      subjects: Model.subjects(model)
    }

    at_start = settle(state, :all)

    steps =
      Enum.shuffle(List.duplicate(:round, Enum.random(4..6)) ++ Enum.map(crashing, &{:crash, &1}))

    state = Enum.reduce(steps, state, &step/2)
    seen = settle(state, :but_given_up)
    given_up(state)
    seen = if OOM.held() == [], do: seen, else: released(state)

    unchanged(state, seen)
    if crashing == [], do: protected(state, at_start, seen)
    assert Births.all_wrong(running.births) == []
    stop(running)
    state.kills
  end

  @doc "Returns the steps of the last run, to explain a failure."
  @spec history() :: String.t()
  def history,
    do: __MODULE__ |> Process.get([]) |> Enum.reverse() |> Enum.map_join("\n", &show/1)

  defp note(what), do: Process.put(__MODULE__, [what | Process.get(__MODULE__, [])])

  # A significant child would end its supervisor, which is another scenario.
  defp crashing(tree, count) do
    leaves =
      for %{kind: :worker, significant: false} = node <- GeneratedTree.all(tree), do: node.path

    for _ <- 1..count//1, leaves != [], do: Enum.random(leaves)
  end

  defp step({:crash, path}, state) do
    seen = settle(state, :held_or_there)

    case seen.pids[path] do
      nil ->
        state

      pid ->
        note({:crash, path})
        crash(pid, Enum.random([:crash, :kill]))
        state = %{state | model: Model.fall(state.model, [{path, :crash}]), settled?: false}
        changed(fn -> state |> look() |> get_in([:pids, path]) != pid end)
        settle(state, :held_or_there)
        state
    end
  end

  defp step(:round, state) do
    # In some rounds no walk has happened since the last returns.
    walked? = not state.settled? or :rand.uniform(5) > 2
    if walked?, do: Census.walk()
    seen = look(state)
    ranks = Model.ranks(state.model, seen.pids)
    note({:round, walked?})
    if state.settled? and walked?, do: known(state, seen, ranks)
    state = if walked?, do: %{state | walked: {seen.pids, ranks}}, else: state

    victims =
      Pressure.still(fn ->
        samples = [:level | List.duplicate(:tick, Enum.random(1..5))]
        kill(state, figures(ranks, seen), samples)
      end)

    # Some are still on their way when the first may come back.
    Pressure.relief()
    await(victims)
    killed = for pid <- victims, path = path(state, pid), do: path
    ended = for path <- killed, do: {path, :memory}
    taken = Model.taken(state.model, ended)
    model = Model.fall(state.model, ended)
    before? = state.settled?
    state = %{state | model: model, kills: state.kills + length(killed)}
    how = Enum.random([:but_given_up, :but_given_up, :held_or_there])
    after_it = settle(state, how)
    note({:relief, how})
    if before?, do: only(state, taken, seen, after_it)
    if before?, do: stays_down(state, killed, seen, after_it)
    %{state | settled?: how == :but_given_up}
  end

  # Everything going with the victims went, by the strategies, and nothing else did.
  defp only(state, taken, before, after_it) do
    for {path, pid} <- after_it.pids, Model.sure?(state.model, path) do
      if Enum.any?(taken, &Model.below?(path, &1)),
        do: refute(before.pids[path] == pid, "#{show(path)} was to go with #{show(taken)}"),
        else:
          assert(
            before.pids[path] in [nil, pid],
            "#{show(path)} was ended, besides #{show(taken)}"
          )
    end
  end

  # A child given up at the first kill, where no other hold of its supervisor covers it.
  defp stays_down(%{model: model} = state, killed, before, after_it) do
    for path <- killed,
        above = Model.parent(path),
        Model.max_kills(model, path) == 1 and model.index[path].restart != :temporary,
        Enum.count(killed, &(Model.parent(&1) == above)) == 1,
        Enum.all?(state.running.index[above].children, &is_map_key(before.pids, &1.path)),
        before.pids[above] == after_it.pids[above] do
      refute is_map_key(after_it.pids, path), "#{show(path)} is back, and was to be given up"
    end
  end

  # All killable processes are known, with their ranks; and no others.
  defp known(state, seen, ranks) do
    wrong =
      for {path, pid} <- seen.pids,
          Model.sure?(state.model, path),
          rank = Workers.rank(pid),
          # A bond may raise a rank for a while (OOM.Bonds).
          ranks[path] == nil or OOM.Units.highest(rank, ranks[path]) != rank,
          do: {path, rank, ranks[path]}

    assert wrong == [], "ranks, and what they should be: #{inspect(wrong, charlists: :as_lists)}"
    unknown = for {path, rank} <- ranks, Workers.rank(seen.pids[path]) == nil, do: {path, rank}
    assert unknown == [], "not known: #{inspect(unknown, charlists: :as_lists)}"
  end

  defp figures(ranks, seen) do
    # A process returned since the walk cannot be picked yet.
    for {path, _} <- ranks, pid = seen.pids[path], Workers.member?(pid), into: %{} do
      bytes = Enum.random([0, 1_000, 20_000, 50_000, 100_000, 300_000])
      Workers.sampled(pid, bytes, now(), :fresh)
      found = %{hidden: 0, all: 0, step: 0, hard_ms: nil, live: 0, copied: 0, waits?: false}
      evidence = grows(Workers.rank(pid))
      Workers.worked(pid, {0, now(), Map.put(found, :evidence, evidence)})
      {pid, bytes}
    end
  end

  # All grow by as much: of a lower rank even the few that are left go first.
  defp grows(rank) when is_integer(rank),
    do: %{grown: 1_073_741_824, shown?: true, episode: Level.episode()}

  defp grows(_protected), do: %{grown: 0, shown?: true, episode: Level.episode()}

  defp kill(_state, _figures, []), do: []

  defp kill(state, figures, [message | more]) do
    need = Enum.random([1, 50_000, 200_000, 1_000_000])

    case sample(state, message, need, now() + @next_ms) do
      # No killable process is left.
      {[], _} ->
        []

      {victims, before} ->
        note({:killed, for(pid <- victims, do: path(state, pid))})
        in_order(state, victims, before, figures, need)
        if Enum.random([true, false]), do: await(victims)
        victims ++ kill(state, figures, more)
    end
  end

  # A supervisor ended by a victim is marked like a victim.
  defp path(state, pid) do
    path = Births.path(state.running.births, pid)
    if path in state.subjects, do: path
  end

  # The processes right before the kill, and the victims.
  defp sample(state, message, need, until) do
    before = look(state)

    case Pressure.sample(message, need) do
      [] -> if now() < until, do: sample(state, :tick, need, until), else: {[], before}
      victims -> {victims, before}
    end
  end

  defp await(victims) do
    for pid <- victims do
      ref = Process.monitor(pid)

      receive do
        {:DOWN, ^ref, _, _, _} -> :ok
      after
        10_000 ->
          flunk("#{inspect(pid)} was marked, and lives on: #{inspect(Tree.lookup(pid))}")
      end
    end
  end

  # No protected process is killed, and none while lower ranks with enough memory live on. A rank
  # may have changed since the walk, with the members of its unit; both values are accepted. A
  # process started since the walk need not be known.
  defp in_order(state, victims, before, figures, need) do
    {known, ranks} = state.walked
    chosen = for pid <- victims, path = path(state, pid), do: path
    # A victim may have started after the look.
    now = Model.ranks(state.model, Map.merge(before.pids, Map.new(chosen, &{&1, nil})))

    worth = fn path, choose ->
      choose.(Map.get(ranks, path, now[path]), now[path] || ranks[path])
    end

    for victim <- chosen, Model.sure?(state.model, victim) do
      least = worth.(victim, &Model.lowest/2)
      refute least == :protected, "protected #{show(victim)} was killed"

      left =
        for {path, pid} <- before.pids,
            is_map_key(ranks, path) and known[path] == pid,
            Map.get(figures, pid, 0) >= @min_bytes,
            path not in chosen,
            Model.sure?(state.model, path),
            worth.(path, &Model.highest/2) < least,
            # Marked and leaving.
            not Victims.marked?(pid),
            Process.alive?(pid),
            do: {path, worth.(path, &Model.highest/2), figures[pid]}

      # Processes of a rank with too little memory together would be of no use.
      for {rank, rows} <- Enum.group_by(left, &elem(&1, 1)),
          bytes = rows |> Enum.map(&elem(&1, 2)) |> Enum.sum(),
          bytes >= need do
        flunk(
          "#{show(victim)} of #{Priority.name(least)} was killed for #{need} bytes, and " <>
            "#{Enum.map_join(rows, ", ", &show(elem(&1, 0)))} of #{rank}, which hold #{bytes}, were not"
        )
      end
    end
  end

  defp crash(pid, :crash), do: GenServer.cast(pid, {:stop, :crash})
  defp crash(pid, :kill), do: Process.exit(pid, :kill)

  # Given up are exactly these, for the reported reason; released by hand, all come back.
  defp given_up(state) do
    for {path, %{ids: [id | _]} = held} <- Running.held(state.running) do
      assert held.state == :given_up
      assert held.kills >= held.max_kills

      if held.id == id and length(held.ids) == 1,
        do: assert(held.max_kills == (Model.max_kills(state.model, path) || 10))
    end
  end

  defp released(state) do
    for held <- OOM.held(), do: assert(OOM.release(held) == :ok)
    settle(state, :all)
  end

  # The lists of children are as before, no process is there twice, and no restart was counted.
  defp unchanged(%{model: model} = state, seen) do
    assert seen.twice == []

    for {path, children} <- seen.lists, Model.sure?(model, path) do
      sure = &Model.sure?(model, &1)

      {children, expected} =
        {Enum.filter(children, sure), Enum.filter(Model.listing(model, path), sure)}

      if model.index[path].kind in [:dynamic, :simple, :tasks],
        do: assert(Enum.sort(children) == expected),
        else: assert(children == expected)

      counted = Running.restarts(seen.pids[path])

      assert counted <= Map.get(state.restarts, path, 0),
             "#{show(path)} counted #{counted} restarts"
    end
  end

  # A worker may be protected only because its own end would take a protected worker along. Such a worker may
  # still end with a sibling.
  defp protected(state, at_start, seen) do
    for path <- state.subjects, Model.own(state.model, path) == :protected do
      assert seen.pids[path] == at_start.pids[path], "protected #{show(path)} was ended"
    end
  end

  # Waits until all expected processes are there: `:all`, or all but the given up, or all but the
  # held.
  defp settle(state, but) do
    expected = Model.expected(state.model)

    {seen, missing, extra} =
      wait_until(fn ->
        case Running.look(state.running) do
          nil ->
            {nil, :changing, []}

          seen ->
            held = Running.held(state.running)
            {held, others} = Enum.split_with(held, fn {_, held} -> excused?(held, but) end)
            held = Enum.map(held, &elem(&1, 0))
            there = Map.keys(seen.pids)

            down =
              Enum.reject(expected -- there, fn path ->
                Enum.any?(held, &Model.below?(path, &1))
              end)

            extra = Enum.filter(there -- expected, &Model.sure?(state.model, &1))
            {seen, down ++ Enum.map(others, &elem(&1, 0)), extra}
        end
      end)

    assert missing == [], "not back: #{show(missing)}; held: #{inspect(OOM.held())}"
    assert extra == [], "should not be back: #{show(extra)}"
    if but == :all, do: assert(OOM.held() == [])
    assert Process.alive?(state.running.pid)
    seen
  end

  defp excused?(_held, :all), do: false
  defp excused?(held, :but_given_up), do: held.state == :given_up
  defp excused?(_held, :held_or_there), do: true

  defp wait_until(fun, deadline \\ now() + @deadline_ms) do
    case fun.() do
      {_, [], []} = done -> done
      other -> if now() > deadline, do: other, else: Process.sleep(1) && wait_until(fun, deadline)
    end
  end

  defp changed(fun), do: OOM.Test.Eventually.eventually(fun)
  defp look(state), do: OOM.Test.Eventually.eventually(fn -> Running.look(state.running) end)

  defp stop(running) do
    Supervisor.stop(running.pid)
    receive(do: ({:EXIT, pid, _} when pid == running.pid -> :ok))
  end

  defp show(path_or_paths), do: inspect(path_or_paths, charlists: :as_lists, limit: 50)
  defp now, do: System.monotonic_time(:millisecond)
end
