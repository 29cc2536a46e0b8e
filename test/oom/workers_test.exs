defmodule OOM.WorkersTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Level, Plan, Workers}

  describe "declare/2" do
    test "registers" do
      :ok = Workers.declare(self(), 250)
      {:parent, parent} = :erlang.process_info(self(), :parent)
      assert {pid, 250, 0, nil, :new, ^parent, nil, [], nil} = Workers.lookup(self())
      assert pid == self()
      assert Workers.count() == 1
    end

    test "a child its supervisor has just started is known to be new, and nobody else" do
      before_ms = System.monotonic_time(:millisecond)
      [declared, attached, found, both] = [idle(), idle(), idle(), idle()]
      Level.next_episode()
      :ok = Workers.declare(declared, 250)
      :ok = Workers.attach(attached, 250, self(), :id, [])
      :ok = Workers.found(found, 250, self())

      # The worker spoke for itself while starting.
      :ok = Workers.declare(both, 250)
      :ok = Workers.attach(both, 250, self(), :both, [])
      for pid <- [declared, found], do: assert({nil, 0, _rank} = Workers.last_look(pid))

      for pid <- [attached, both] do
        assert {{:born, at_ms, episode}, 0, _rank} = Workers.last_look(pid)
        assert episode == Level.episode()
        assert at_ms in before_ms..System.monotonic_time(:millisecond)
      end
    end

    test "again changes the rank, and the plan with it" do
      :ok = Workers.declare(self(), 250)
      :ok = Workers.sampled(self(), 7, 1, :fresh)
      :ok = Workers.declare(self(), 750)
      assert [%{rank: 750, bytes: 7}] = planned()
      :ok = Workers.declare(self(), :protected)
      assert [] = planned()
      :ok = Workers.declare(self(), 0)
      assert [%{rank: 0, bytes: 7}] = planned()
    end

    test "wins over the supervisor's word, before and after it" do
      [early, late] = [idle(), idle()]
      :ok = Workers.declare(early, 1)
      :ok = Workers.attach(early, 500, self(), :early, [:options])
      :ok = Workers.attach(late, 500, self(), :late, [])
      :ok = Workers.declare(late, 2)

      [test, early_row, late_row] = [self(), Workers.lookup(early), Workers.lookup(late)]
      assert {^early, 1, 0, nil, :new, ^test, :early, [:options], {:born, _, _}} = early_row
      assert {^late, 2, 0, nil, :new, ^test, :late, [], {:born, _, _}} = late_row
    end
  end

  describe "sampled/4" do
    test "gives a worker its place in the plan, where it is from the first moment" do
      :ok = Workers.declare(self(), 250)
      assert [%{bytes: 0, state: :new}] = planned()
      :ok = Workers.sampled(self(), 7, 123, :fresh)
      assert [%{bytes: 7}] = planned()
      assert {_, 250, 7, 123, :fresh, _, _, _, _} = Workers.lookup(self())
    end

    test "moves a worker that has grown" do
      for bytes <- [7, 8, 8, 3], do: :ok = sampled(bytes)
      assert [%{bytes: 3}] = planned()
      assert :ets.info(Plan, :size) == 1
    end

    test "of an unknown process changes nothing" do
      :ok = Workers.sampled(self(), 7, 1, :fresh)
      assert Workers.lookup(self()) == nil
      assert :ets.info(Plan, :size) == 0
    end

    test "of a protected worker is kept, outside the plan" do
      :ok = Workers.declare(self(), :protected)
      :ok = Workers.sampled(self(), 7, 1, :fresh)
      assert {_, :protected, 7, 1, :fresh, _, _, _, _} = Workers.lookup(self())
      assert :ets.info(Plan, :size) == 0
    end
  end

  describe "stale/3" do
    test "keeps the last figure and adds possible growth" do
      :ok = sampled(7)
      :ok = Workers.stale(self(), 3, 2)
      assert [%{bytes: 10, state: :stale}] = planned()
    end

    test "of an unknown process changes nothing" do
      :ok = Workers.stale(self(), 3, 2)
      assert Workers.count() == 0
    end
  end

  test "delete/1 leaves neither row nor key, and may be repeated" do
    :ok = sampled(7)
    :ok = Workers.delete(self())
    :ok = Workers.delete(self())
    assert Workers.lookup(self()) == nil
    assert :ets.info(Plan, :size) == 0
  end

  test "pids/1 goes through all, a chunk at a time" do
    pids = for n <- 1..1_000, do: tap(n, &Workers.found(&1, 500, self()))
    assert Enum.sort(all(Workers.pids(64))) == pids
    for n <- pids, do: Workers.delete(n)
    assert Workers.pids(64) == :done
  end

  describe "concurrent writers" do
    @workers 40
    @writers 8
    @rounds 2_000

    test "leave a plan that one more sample of each makes whole" do
      workers = for _ <- 1..@workers, do: idle()
      seed = :rand.uniform(1_000_000_000)

      1..@writers
      |> Enum.map(&Task.async(fn -> write(workers, {seed, &1}) end))
      |> Task.await_many(60_000)

      # As the next pass of the probes does.
      for {pid, n} <- Enum.with_index(workers), do: Workers.sampled(pid, n, 0, :fresh)

      expected =
        for {pid, n} <- Enum.with_index(workers),
            row = Workers.lookup(pid),
            elem(row, 1) != :protected,
            do: {elem(row, 1), -n, pid}

      planned = for victim <- planned(), do: {victim.rank, -victim.bytes, victim.pid}
      assert {seed, planned} == {seed, Enum.sort(expected)}
      # The accountant drops false keys now and then.
      Plan.sweep()
      assert {seed, for({key} <- :ets.tab2list(Plan), do: key)} == {seed, Enum.sort(expected)}
    end

    test "never put a protected worker before the guard" do
      pid = idle()
      :ok = Workers.declare(pid, 0)

      changes =
        Task.async(fn -> for n <- 1..20_000, do: Workers.sampled(pid, rem(n, 7), 0, :fresh) end)

      :ok = Workers.declare(pid, :protected)
      for _ <- 1..1_000, do: assert(planned() == [])
      Task.await(changes)
      assert planned() == []
    end

    defp write(workers, {seed, writer}) do
      :rand.seed(:exsss, {seed, writer, 0})

      for _ <- 1..@rounds do
        pid = Enum.random(workers)

        case :rand.uniform(10) do
          1 -> Workers.delete(pid)
          2 -> Workers.declare(pid, Enum.random([0, 250, 500, 1000, :protected]))
          3 -> Workers.attach(pid, 500, self(), :id, [])
          4 -> Workers.stale(pid, 10, 0)
          5 -> planned()
          _ -> Workers.sampled(pid, :rand.uniform(50), 0, :fresh)
        end
      end
    end
  end

  defp sampled(bytes) do
    :ok = Workers.declare(self(), 250)
    Workers.sampled(self(), bytes, 1, :fresh)
  end

  # Returns the workers in the plan, in order, where the key is true: the guard chooses from these workers.
  defp planned do
    for {{rank, minus, pid}} <- :ets.tab2list(Plan),
        {^pid, ^rank, bytes, _, state, _, _, _, _} <- [Workers.lookup(pid)],
        bytes == -minus,
        do: %{pid: pid, rank: rank, bytes: bytes, state: state}
  end

  defp all(:done), do: []
  defp all({pids, rest}), do: pids ++ all(Workers.pids(rest))
end
