defmodule OOM.BondsPropertyTest do
  # Graphs of processes from seeds: who started whom, links, trapped exits, calls that wait. For each process the
  # rank that OOM.Bonds finds is the highest rank among the processes that really end with it: the test ends the
  # process and looks who is left.
  #
  #   OOM_PROPERTY_RUNS=500 mix test test/oom/bonds_property_test.exs
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Bonds, Priority}

  @runs String.to_integer(System.get_env("OOM_PROPERTY_RUNS", "25"))
  @seed String.to_integer(System.get_env("OOM_PROPERTY_SEED", "1"))
  @moduletag timeout: :infinity
  # The crashes of those that wait in a call.
  @moduletag :capture_log

  defmodule Member do
    use GenServer

    @impl true
    def init({trap_exit, priority}) do
      Process.flag(:trap_exit, trap_exit)
      if priority, do: OOM.set_priority(priority)
      {:ok, nil}
    end

    @impl true
    def handle_call({:start, arg}, _from, state),
      do: {:reply, GenServer.start_link(__MODULE__, arg), state}

    def handle_call({:link, pid}, _from, state), do: {:reply, Process.link(pid), state}
    def handle_call(:never, _from, state), do: {:noreply, state}

    @impl true
    def handle_cast({:call, pid}, state) do
      GenServer.call(pid, :never, :infinity)
      {:noreply, state}
    end

    @impl true
    def handle_info(_message, state), do: {:noreply, state}
  end

  test "the rank of a process's bonds is the highest rank that ends with the process" do
    counts = for seed <- @seed..(@seed + @runs - 1), do: run(seed)
    {bound, ended} = counts |> Enum.concat() |> Enum.unzip()
    # Graphs without bonds show nothing.
    assert Enum.count(bound, &(&1 != 0)) > @runs
    assert Enum.sum(ended) > @runs
  end

  defp run(seed) do
    :rand.seed(:exsss, seed)
    graph = graph(Enum.random(2..7))

    for victim <- 0..(map_size(graph.members) - 1) do
      pids = start(graph)

      try do
        expected = taken(graph, [victim], [])
        predicted = Bonds.rank(pids[victim])
        Process.exit(pids[victim], :kill)

        ended =
          eventually(fn ->
            ended = for {n, pid} <- pids, not Process.alive?(pid), do: n
            if Enum.sort(ended) == expected, do: ended
          end)

        ranks = for n <- ended, n != victim, do: rank(graph.members[n])
        assert predicted == Enum.max(ranks, fn -> 0 end)
        {predicted, length(ranks)}
      rescue
        error ->
          message = """
          OOM_PROPERTY_SEED=#{seed} OOM_PROPERTY_RUNS=1, the end of #{victim}
          #{Exception.message(error)}
          #{inspect(graph, pretty: true)}
          """

          reraise ExUnit.AssertionError, [message: message], __STACKTRACE__
      after
        for {_, pid} <- pids, do: Process.exit(pid, :kill)
        for {_, pid} <- pids, do: eventually(fn -> not Process.alive?(pid) end)
      end
    end
  end

  defp rank({_, _, nil}), do: 0
  defp rank({_, _, priority}), do: Priority.rank!(priority)

  # By OTP's rules: what is linked and does not trap exits, or was started by an ended process; and what waits in a
  # call.
  defp taken(_graph, [], ended), do: Enum.sort(ended)

  defp taken(graph, [n | rest], ended) do
    next =
      for {other, {parent, trap_exit, _}} <- graph.members,
          other != n,
          other not in ended and other not in rest,
          {other, n} in graph.calls or
            (linked?(graph, other, n) and (not trap_exit or parent == n)),
          do: other

    taken(graph, rest ++ next, [n | ended])
  end

  defp linked?(graph, a, b) do
    {min(a, b), max(a, b)} in graph.links or elem(graph.members[a], 0) == b or
      elem(graph.members[b], 0) == a
  end

  # Members by number: who started it, whether it traps exits, its priority. A started member is linked with its
  # starter. A caller waits for one answer, so each member calls at most once.
  defp graph(count) do
    members =
      for n <- 0..(count - 1), into: %{} do
        parent = if n > 0 and one_in(3), do: Enum.random(0..(n - 1))
        {n, {parent, one_in(4), Enum.random([nil, :low, :normal, 300, :high, :protected])}}
      end

    pairs = for a <- 0..(count - 1), b <- 0..(count - 1), a != b, do: {a, b}

    %{
      members: members,
      links: Enum.filter(pairs, fn {a, b} -> a < b and one_in(5) end),
      # The lower number is called, so no circle of calls waits for itself. A caller that traps exits would read of its
      # parent's end only after the call.
      calls:
        for(
          a <- 1..(count - 1),
          {_, false, _} <- [members[a]],
          one_in(5),
          do: {a, Enum.random(0..(a - 1))}
        )
    }
  end

  defp start(graph) do
    pids =
      for n <- 0..(map_size(graph.members) - 1), reduce: %{} do
        pids ->
          {parent, trap_exit, priority} = graph.members[n]
          arg = {trap_exit, priority}
          # Without a link: the test outlives all.
          start = fn
            nil -> GenServer.start(Member, arg)
            parent -> GenServer.call(pids[parent], {:start, arg})
          end

          {:ok, pid} = start.(parent)
          Map.put(pids, n, pid)
      end

    for {a, b} <- graph.links, do: GenServer.call(pids[a], {:link, pids[b]})

    for {a, b} <- graph.calls do
      GenServer.cast(pids[a], {:call, pids[b]})

      eventually(fn ->
        Process.info(pids[a], :current_function) == {:current_function, {:gen, :do_call, 4}}
      end)
    end

    pids
  end

  defp one_in(n), do: :rand.uniform(n) == 1
end
