defmodule OOM.Supervisor.PropertyTest do
  # Trees, pressure and crashes from seeds. No memory is used: the figures are put where the probes
  # would put them, and who is picked is ended as the guard does it.
  #
  #   OOM_PROPERTY_RUNS=2000 mix test test/oom/supervisor/property_test.exs
  #   OOM_PROPERTY_SEED=17 OOM_PROPERTY_RUNS=1 mix test ...     what failed with seed 17
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Accountant, Holds, Kill, Level, Plan, Victims, Workers}
  alias OOM.Test.GeneratedTree, as: Tree

  @runs String.to_integer(System.get_env("OOM_PROPERTY_RUNS", "30"))
  @seed String.to_integer(System.get_env("OOM_PROPERTY_SEED", "1"))
  @moduletag timeout: :infinity

  @min_bytes 16_384

  setup do
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    Process.flag(:trap_exit, true)
    on_exit(fn -> Level.put(:normal) end)
  end

  test "without crashes: max_restarts is 0 everywhere" do
    kills = Enum.sum(for seed <- @seed..(@seed + @runs - 1), do: run(seed, 0))
    assert kills > 0 or @runs < 10
  end

  test "with crashes in between: max_restarts is their number" do
    for seed <- @seed..(@seed + @runs - 1), do: run(seed, 6)
  end

  defp run(seed, crashes) do
    :rand.seed(:exsss, seed)
    tree = Tree.generate()
    workers = Tree.workers(tree)
    crashes = for _ <- 1..crashes//1, workers != [], do: elem(Enum.random(workers), 0)

    steps =
      Enum.shuffle(
        Enum.map(crashes, &{:crash, &1, Enum.random([:crash, :kill])}) ++
          List.duplicate(:pressure, Enum.random(1..4)) ++
          List.duplicate(:relief, Enum.random(0..1))
      )

    try do
      check(tree, crashes, steps)
    rescue
      error ->
        message = """
        seed #{seed}, OOM_PROPERTY_SEED=#{seed} OOM_PROPERTY_RUNS=1
        #{Exception.message(error)}
        steps: #{inspect(steps)}
        tree: #{inspect(tree, pretty: true, limit: :infinity)}
        """

        reraise ExUnit.AssertionError, [message: message], __STACKTRACE__
    end
  end

  # Returns how many were killed.
  defp check(tree, crashes, steps) do
    lives = :ets.new(:lives, [:public])
    facts = Map.new(Tree.workers(tree))
    supervisor = Tree.start(tree, crashes, &born(lives, &1, &2))
    {lists, at_start} = Tree.look(supervisor)
    assert lists == Tree.listing(tree)

    kills = for step <- steps, do: step(step, supervisor, facts)
    Level.put(:normal)

    # All that live longer than one life are back, and nothing waits any more.
    eventually(fn -> Process.alive?(supervisor) and back?(supervisor, facts) end)

    {lists, pids} = Tree.look(supervisor)
    assert but_temporary(lists, facts) == but_temporary(Tree.listing(tree), facts)
    # Those that are there are in their old order, too.
    for {path, children} <- lists, do: assert(children == children_of(tree, path, children))
    assert :ets.match(lives, {{:twice, :_}, :"$1"}) == []
    assert :ets.match(lives, {{:held, :_}, :"$1"}) == []

    if crashes == [] do
      for {path, %{priority: :protected, parent: :oom}} <- facts,
          alone?(tree, path),
          do: assert(pids[path] == at_start[path], "protected #{inspect(path)} was ended")
    end

    Supervisor.stop(supervisor)
    flush()
    Enum.sum(kills)
  end

  # In the worker, first thing: the one before it must be gone.
  defp born(lives, path, pid) do
    for {_, before} <- :ets.lookup(lives, path),
        Process.alive?(before),
        do: :ets.insert(lives, {{:twice, make_ref()}, {path, before, pid}})

    # Nobody asks for a start here, so what is held stays down until its hold ends.
    [supervisor | _] = Process.get(:"$ancestors")

    if path in Holds.ids(supervisor),
      do: :ets.insert(lives, {{:held, make_ref()}, path})

    :ets.insert(lives, {path, pid})
  end

  defp step({:crash, path, how}, supervisor, _facts) do
    {_, pids} = Tree.look(supervisor)

    with pid when is_pid(pid) <- pids[path] do
      ref = Process.monitor(pid)
      if how == :kill, do: Process.exit(pid, :kill), else: GenServer.cast(pid, {:stop, :crash})
      receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
    end

    0
  end

  defp step(:relief, _supervisor, _facts) do
    Level.put(:normal)
    # Some come back meanwhile, some are on their way when the pressure is back.
    for _ <- 1..Enum.random(1..3), do: :sys.get_state(Holds)
    0
  end

  defp step(:pressure, supervisor, facts) do
    Level.put(:critical)
    # No probe writes a figure between ours and the pick.
    Accountant.pass()
    :sys.suspend(Accountant)

    try do
      {_, pids} = Tree.look(supervisor)
      workers = for {path, pid} <- pids, is_pid(pid), Workers.lookup(pid) != nil, do: {path, pid}

      for {_, pid} <- workers do
        bytes = Enum.random([0, 1_000, 50_000, 1_000_000, 20_000_000])
        Workers.sampled(pid, bytes, now(), :fresh)
      end

      before = for {_, pid} <- workers, row = Workers.lookup(pid), do: row
      victims = Plan.pick(limits(Enum.random([1, 100_000, 3_000_000, 50_000_000])))
      ours = for victim <- victims, victim.pid in Map.values(pids), do: victim

      # Below a plain supervisor nobody has said so; a walk may have found them by now.
      for {path, pid} <- workers,
          facts[path].parent == :oom,
          Enum.any?(ours, &(&1.pid == pid)) do
        refute facts[path].priority == :protected, "protected #{inspect(path)} was picked"
      end

      # Before they are told: once they are gone the others of their units are, too.
      for victim <- ours,
          {pid, rank, bytes, _, _, _, _, _, _} <- before,
          rank < victim.rank and bytes >= @min_bytes do
        assert Enum.any?(ours, &(&1.pid == pid)) or not Process.alive?(pid),
               "#{inspect(victim)} was picked while #{inspect(pid)} of #{rank} holds #{bytes}"
      end

      kill(victims)
      length(ours)
    after
      :sys.resume(Accountant)
    end
  end

  # As OOM.Guard does it.
  defp kill(victims) do
    refs =
      for victim <- victims do
        ref = Process.monitor(victim.pid)
        Victims.mark(victim.pid, now(), victim.bytes)
        Workers.delete(victim.pid)
        Kill.start(victim.pid, victim.supervisor, Enum.random([1, 1_000]))
        ref
      end

    for ref <- refs, do: receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
  end

  defp limits(need) do
    %{
      need_bytes: need,
      count: 64,
      min_bytes: @min_bytes,
      fresh_ms: 10_000,
      unknown: :take,
      busy: :spare,
      ceiling: 1_000,
      now_ms: now(),
      growth_bytes_per_ms: 0
    }
  end

  defp back?(supervisor, facts) do
    {_, pids} = Tree.look(supervisor)

    Enum.all?(facts, fn {path, %{restart: restart}} ->
      restart == :temporary or is_pid(pids[path])
    end) and Holds.count() == 0
  end

  defp but_temporary(lists, facts) do
    for {path, children} <- lists,
        do: {path, Enum.reject(children, fn {id, _} -> temporary?(facts[id]) end)}
  end

  defp temporary?(facts), do: facts != nil and facts.restart == :temporary

  defp children_of(tree, path, present) do
    {_, children} = List.keyfind(Tree.listing(tree), path, 0)
    Enum.filter(children, &(&1 in present))
  end

  # Under no strategy that would take it along with a sibling that may be ended.
  defp alone?({_, path, facts, children}, worker) do
    facts.strategy == :one_for_one and
      Enum.all?(children, fn
        {:worker, _, _} -> true
        {_, below, _, _} = child -> not List.starts_with?(worker, below) or alone?(child, worker)
      end) and List.starts_with?(worker, path)
  end

  defp flush do
    receive do
      _ -> flush()
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
