defmodule OOM.VictimQueueTest do
  @moduledoc false
  # Tests the victim order case by case on prepared rows: no process is asked anything.
  use OOM.Test.TablesCase, async: false

  alias OOM.{EndedGrowth, Level, Limits, Plan, Steps, VictimQueue, Workers}

  @mib 1_048_576
  @now 100_000

  describe "newcomers" do
    setup do
      on_exit(fn -> Level.put(:normal) end)
    end

    defp crowd(rank, count) do
      Level.put(:high)
      now = System.monotonic_time(:millisecond)
      pids = for _ <- 1..count, do: row(rank, 0.1, at_ms: now, looked_ms: now)
      {pids, [now_ms: System.monotonic_time(:millisecond)]}
    end

    test "go before steady neighbours, and before late ones are waited for" do
      steady = worker(250, 300, at_ms: System.monotonic_time(:millisecond))
      late = new(250)
      {pids, options} = crowd(250, 200)
      assert {victims, :crowd} = pids(choose(5, options))
      assert length(victims) >= 50
      assert victims -- pids == []
      refute steady in victims or late in victims
    end

    test "stay where growers are the cause, where nothing grows, and where memory grows by much more" do
      {_pids, options} = crowd(250, 200)
      refute match?({_, :crowd}, choose(5, [grows?: false] ++ options))
      refute match?({_, :crowd}, choose(5, [recent_bytes: 200 * @mib] ++ options))
      culprit = worker(250, 50, grown: 40, at_ms: options[:now_ms], looked_ms: options[:now_ms])
      assert {[culprit], :growing} == pids(choose(5, options))
    end

    test "that have come in the last seconds go where no cause is known, if they hold what is needed" do
      {pids, _} = crowd(500, 200)
      # They come no more, and none of them grows; 200 of 0.1 MiB.
      later = [now_ms: System.monotonic_time(:millisecond) + 5_000]
      assert {victims, :came} = pids(choose(5, [late: :pass, fresh_ms: 10_000] ++ later))
      assert length(victims) == 50 and victims -- pids == []
      # Figures that are late come first, as with all others.
      assert {[], :late} = choose(5, later)
      later = [late: :pass, fresh_ms: 10_000] ++ later
      assert {[], :none} = choose(21, later)
      # A small part of what is used may be there by chance.
      assert {[], :none} = choose(5, [used_bytes: 100 * @mib] ++ later)
      # The cause is known, and worth more.
      culprit = worker(750, 50, grown: 40, at_ms: later[:now_ms], looked_ms: later[:now_ms])
      assert {victims, verdict} = pids(choose(5, later))
      assert verdict != :came
      assert culprit in victims or victims == []
      Workers.delete(culprit)
      assert {[], _why} = choose(5, now_ms: later[:now_ms] + Limits.came_ms())
    end

    test "of a higher rank stay while a lower rank covers the need" do
      {_normal, _} = crowd(500, 200)
      {low, options} = crowd(250, 200)
      assert {victims, :crowd} = pids(choose(5, options))
      assert victims -- low == []
    end
  end

  describe "while memory grows" do
    test "growing workers go, and larger steady neighbours of their rank stay" do
      steady = for mib <- [100, 200, 300], do: worker(500, mib)
      culprit = worker(500, 50, grown: 40)
      assert {[culprit], :growing} == pids(choose(10))
      assert {[culprit], :growing} == pids(choose(160))
      assert Enum.all?(steady, &Process.alive?/1)
    end

    # Growth of any kind (heap, binaries, mailbox, tables) is a single figure by then.
    test "the culprit is found among as many as there are" do
      for _ <- 1..300, do: row(500, 10)
      culprit = worker(500, 12, grown: 10)
      assert {[culprit], :growing} == pids(choose(5))
    end

    test "several culprits go together, no more than the need asks for, the largest first" do
      [a, b, c] =
        for {mib, grown} <- [{50, 30}, {90, 20}, {70, 25}], do: worker(500, mib, grown: grown)

      worker(500, 500)
      assert {[b], :growing} == pids(choose(90))
      assert {[b, c], :growing} == pids(choose(91))
      assert {[b, c, a], :growing} == pids(choose(200))
      # The need exceeds the memory of the growers: steady workers still stay.
      assert {[b, c, a], :growing} == pids(choose(250))
    end

    test "a worker that has grown by far less than the fastest of its rank just does its work" do
      fast = worker(500, 100, grown: 80)
      worker(500, 200, grown: 9)
      worker(500, 200, grown: 0.01)
      assert {[fast], :growing} == pids(choose(250))
    end

    test "growth of the last victims is not growth of their neighbours" do
      ended = %EndedGrowth{total_bytes: 90 * @mib, fastest_bytes: 40 * @mib}
      neighbours = for _ <- 1..5, do: worker(250, 20, grown: 1)
      filled = for _ <- 1..5, do: worker(500, 20, grown: 1)
      assert {[], :none} == choose(10, ended: ended)
      # The last victims have not grown much more than the neighbours.
      other = %EndedGrowth{total_bytes: 8 * @mib, fastest_bytes: 8 * @mib}
      assert {[victim], :growing} = pids(choose(10, ended: other))
      assert victim in neighbours
      # A worker of the higher rank grows on.
      culprit = worker(500, 50, grown: 30)
      assert {[culprit], :growing} == pids(choose(10, ended: ended))
      refute culprit in filled
    end

    test "of several ranks with growers the lowest goes first" do
      low = worker(250, 20, grown: 20)
      worker(500, 200, grown: 100)
      assert {[low], :growing} == pids(choose(10))
    end

    test "a low rank with next to no growth is not the cause" do
      worker(250, 20, grown: 1)
      normal = worker(500, 200, grown: 100)
      assert {[normal], :growing} == pids(choose(10))
    end

    test "of a low rank the few that are left go before the many that grow no faster" do
      few = for _ <- 1..2, do: worker(250, 5, grown: 2)
      many = for _ <- 1..40, do: worker(500, 5, grown: 2)
      assert {victims, :growing} = pids(choose(60))
      assert Enum.sort(victims) == Enum.sort(few)
      # A member of the few with ordinary growth stays as well.
      worker(250, 5, grown: 0.2)
      assert {^victims, :growing} = pids(choose(60))
      for pid <- few, do: Workers.delete(pid)
      assert {[_ | _] = victims, :growing} = pids(choose(60))
      assert victims -- many == []
    end

    test "nor do they go where memory grows by far more than all of them do" do
      worker(250, 5, grown: 2)
      for _ <- 1..40, do: worker(500, 5, grown: 2)
      assert {[], :none} == choose(60, recent_bytes: 4 * 82 * @mib + 1)
      assert {[_], :growing} = choose(60, recent_bytes: 4 * 82 * @mib)
    end

    test "a rank that has grown by far less than memory has lately is not the cause" do
      normal = worker(500, 20, grown: 10)
      assert {[normal], :growing} == pids(choose(10, recent_bytes: 40 * @mib))
      assert {[], :none} == choose(10, recent_bytes: 40 * @mib + 1)
    end

    test "workers that just work do not add up to a cause" do
      for _ <- 1..50, do: row(500, 8, grown: 0.05)
      assert {[], :none} == choose(20)
      # A worker that has grown by more counts, and by as little is no cause.
      worker(500, 8, grown: 0.1)
      assert {[], :none} == choose(20)
    end

    # A program beside the VM takes 400 MB/s, and a leak of low priority takes as much as possible.
    test "below :normal growth counts that is a part of what is missing, whatever else grows" do
      low = worker(250, 20, grown: 10)
      assert {[low], :growing} == pids(choose(40, recent_bytes: 400 * @mib))
      assert {[], :none} == choose(40.1, recent_bytes: 400 * @mib)
    end

    test "the need does not make growth too small to be the cause" do
      low = worker(250, 20, grown: 1)
      assert {[low], :growing} == pids(choose(500, recent_bytes: 4 * @mib))
    end

    # A table without a known owner grows, and the workers were started a moment before.
    test "workers started a while ago are no longer the cause" do
      looked = [once: true, looked_ms: @now - 3 * Limits.grown_ms()]
      for _ <- 1..50, do: worker(500, 1, [grown: 0.3] ++ looked)
      assert {[], :none} == choose(10, recent_bytes: 15 * @mib)
      culprit = worker(500, 40, grown: 15, looked_ms: @now - 3 * Limits.grown_ms())
      assert {[culprit], :growing} == pids(choose(10, recent_bytes: 15 * @mib))
    end

    test "dynamic children go before static children, whatever their size" do
      [static, dynamic] = [supervisor(:one_for_one), supervisor(:dynamic)]
      large = worker(500, 100, grown: 50, supervisor: static)
      small = worker(500, 20, grown: 50, supervisor: dynamic)
      assert {[small], :growing} == pids(choose(20))
      assert {[small, large], :growing} == pids(choose(21))
    end

    test "growth that is nobody's kills nobody" do
      for rank <- [250, 500], _ <- 1..5, do: worker(rank, 100)
      assert {[], :none} == choose(10)
      assert {[], :none} == choose(10, late: :pass)
    end

    test "protected growth kills nobody by itself" do
      worker(:protected, 300, grown: 300)
      worker(500, 100)
      assert {[], :none} == choose(10)
    end
  end

  describe "steady workers, for the growth of a more important worker" do
    setup do
      %{steady: worker(500, 100), grower: worker(750, 300, grown: 200)}
    end

    test "pay where they cover the request", %{steady: steady} do
      assert {[steady], :steady} == pids(choose(10, steady_bytes: 100 * @mib))
    end

    test "do not pay where their deaths would buy moments", %{grower: grower} do
      assert {[grower], :growing} == pids(choose(10, steady_bytes: 100 * @mib + 1))
    end

    test "do not a second time in an episode", %{grower: grower} do
      assert {[grower], :growing} == pids(choose(10, steady_bytes: nil))
      # The request to workers below :normal does not concern steady workers.
      assert {[grower], :growing} == pids(choose(10, soon_bytes: 10 * @mib))
    end

    test "pay for a grower that may not be reached yet, or wait for it", %{steady: steady} do
      assert {[steady], :steady} == pids(choose(10, steady_bytes: 10 * @mib, ceiling: 500))
      assert {[], :late} == choose(10, steady_bytes: 101 * @mib, ceiling: 500)
    end

    test "pay with as few workers as cover the request, the largest first", %{steady: steady} do
      other = worker(500, 60)
      worker(500, 20)
      assert {[steady, other], :steady} == pids(choose(10, steady_bytes: 150 * @mib))
    end

    test "come after growing workers of their rank" do
      culprit = worker(500, 10, grown: 100)
      assert {[culprit], :growing} == pids(choose(10, steady_bytes: 10 * @mib))
    end

    test "do not pay for growth without a known owner", %{grower: grower} do
      Workers.delete(grower)
      assert {[], :none} == choose(10, steady_bytes: 10 * @mib, soon_bytes: 10 * @mib)
    end
  end

  describe "steady workers below :normal" do
    setup do: %{low: worker(250, 100)}

    test "pay for growth without a known owner, where they cover it", %{low: low} do
      worker(500, 300)
      assert {[low], :steady} == pids(choose(10, soon_bytes: 100 * @mib))
      assert {[], :none} == choose(10, soon_bytes: 100 * @mib + 1)
    end

    test "pay for a more important worker, again and again", %{low: low} do
      grower = worker(500, 300, grown: 200)
      assert {[low], :steady} == pids(choose(10, soon_bytes: 10 * @mib))
      Workers.delete(low)
      next = worker(250, 50)
      assert {[next], :steady} == pids(choose(10, soon_bytes: 10 * @mib))
      Workers.delete(next)
      assert {[grower], :growing} == pids(choose(10, soon_bytes: 10 * @mib))
    end

    test "do not pay before the yield of the last kills is known" do
      assert {[], :none} == choose(10, soon_bytes: nil)
    end

    test "come after the growing workers of their rank" do
      culprit = worker(250, 10, grown: 100)
      assert {[culprit], :growing} == pids(choose(10, soon_bytes: 10 * @mib))
    end
  end

  describe "where nothing grows, near the limit" do
    test "the lowest rank that covers the need makes room, by its largest" do
      low = worker(250, 10)
      worker(500, 300)
      assert {[low], :steady} == pids(at_rest(10))
    end

    test "a rank too small for the need is spared, for the next that covers it" do
      worker(250, 10)
      [normal, _small] = [worker(500, 300), worker(500, 20)]
      assert {[normal], :steady} == pids(at_rest(11))
    end

    test "no two looks are asked for" do
      pid = worker(250, 10, shown: false)
      assert {[pid], :steady} == pids(at_rest(10))
      assert {[], :late} == choose(10)
    end

    test "nobody dies where no rank covers the need" do
      for rank <- [250, 500, 750], do: worker(rank, 10)
      assert {[], :none} == at_rest(11)
    end
  end

  describe "where growth has stopped near the limit, of several growers" do
    test "the workers that filled memory go, before larger steady workers" do
      worker(500, 100)
      grower = worker(500, 30, grown: 10)
      assert {[grower], :growing} == pids(at_rest(30))
    end

    test "workers that have just started go after a large one: they have not filled memory" do
      large = worker(500, 100)
      for _ <- 1..5, do: worker(500, 1, grown: 0.2)
      assert {[large], :steady} == pids(at_rest(28))
    end

    test "growth seen long ago, without a look since, is no growth" do
      large = worker(500, 100)
      worker(500, 60, grown: 60, looked_ms: @now - 2 * Limits.fresh_ms())
      assert {[large], :steady} == pids(at_rest(28))
    end
  end

  describe "an unknown worker" do
    test "never counts: the guard waits for it" do
      pid = new(250)
      worker(500, 100, grown: 100)
      assert {[], :late} == choose(10)
      assert {[], :late} == at_rest(10)
      Workers.delete(pid)
      assert {[_], :growing} = choose(10)
    end

    test "never counts: after a vain wait it is passed by, and does not die" do
      new(250)
      grower = worker(500, 100, grown: 100)
      assert {[grower], :growing} == pids(choose(10, late: :pass))
      Workers.delete(grower)
      assert {[], :none} == choose(10, late: :pass)
      assert {[], :none} == at_rest(10, late: :pass)
    end

    test "with one look shows no growth, however large it is" do
      worker(500, 400, shown: false)
      assert {[], :late} == choose(10)
      assert {[], :none} == choose(10, late: :pass)
    end

    test "with growth of an earlier episode neither" do
      pid = worker(500, 400, grown: 300)
      Level.next_episode()
      assert {[], :late} == choose(10)
      assert {[], :none} == choose(10, late: :pass)
      evidence(pid, 400, 300)
      assert {[pid], :growing} == pids(choose(10))
    end
  end

  describe "a worker that does not answer" do
    test "is waited for, and no worker is taken in its place" do
      worker(250, 100, grown: 100, state: :stale)
      worker(500, 100, grown: 100)
      assert {[], :late} == choose(10)
    end

    test "is not waited for where a worker of its rank is shown to grow" do
      worker(250, 100, grown: 100, state: :stale)
      grower = worker(250, 20, grown: 20)
      assert {[grower], :growing} == pids(choose(10))
    end

    test "explains what memory takes meanwhile, as far as its step goes, and those beside it go" do
      grower = worker(500, 80, grown: 5)
      in_step = worker(500, 80, grown: 5, state: :stale)
      assert {[], :late} == choose(10, recent_bytes: 90 * @mib)
      Steps.put(in_step, 70 * @mib)
      assert {[grower], :growing} == pids(choose(10, recent_bytes: 90 * @mib))
      # Growth beyond four times the known growth belongs to nobody.
      assert {[], :late} == choose(10, recent_bytes: 90 * @mib + 1)
    end

    test "is no victim; nor are workers that have grown by far less" do
      in_step = worker(500, 80, grown: 50, state: :stale)
      Steps.put(in_step, 90 * @mib)
      worker(500, 20, grown: 5)
      assert {[], :late} == choose(10, recent_bytes: 90 * @mib)
    end

    test "is passed by in the end" do
      worker(250, 100, grown: 100, state: :stale)
      grower = worker(500, 100, grown: 100)
      assert {[grower], :growing} == pids(choose(10, late: :pass))
    end

    test "counts like a worker whose figure is old" do
      worker(250, 100, grown: 100, at_ms: @now - Limits.fresh_ms() - 1)
      worker(500, 100, grown: 100)
      assert {[], :late} == choose(10)
      worker(250, 100, grown: 100, at_ms: @now - Limits.fresh_ms())
      assert {[_], :growing} = choose(10)
    end
  end

  describe "never" do
    test "a protected worker, whatever key was left behind" do
      pid = worker(:protected, 100, grown: 100)
      :ets.insert(Plan, {{250, -100 * @mib, pid}})
      assert {[], :none} == choose(10)
      assert {[], :none} == at_rest(10)
    end

    test "a worker too small to be worth a kill" do
      small = worker(250, 1, grown: 5)
      normal = worker(500, 10, grown: 10)
      assert {[normal], :growing} == pids(choose(1, min_bytes: @mib + 1))
      assert {[normal], :growing} == pids(at_rest(1, min_bytes: @mib + 1))
      assert {[small], :growing} == pids(choose(1, min_bytes: @mib))
    end

    test "a worker above the ceiling" do
      worker(500, 100, grown: 100)
      assert {[], :late} == choose(10, ceiling: 499)
      assert {[_], :growing} = choose(10, ceiling: 500)
    end

    test "anybody where nothing is needed" do
      worker(250, 100, grown: 100)
      assert {[], :none} == choose(0)
      assert {[], :none} == choose(-1)
    end

    test "more at once than were asked for" do
      for _ <- 1..10, do: worker(250, 10, grown: 10)
      assert {[_, _, _], :growing} = choose(100, count: 3)
    end

    test "one that would take a protected one along" do
      supervisor = supervisor(:one_for_all)
      [bound, protected] = [idle(), idle()]
      children = for pid <- [bound, protected], do: child(pid)
      :ets.insert(OOM.Tree, {supervisor, :supervisor, nil, [], {:one_for_all, :never, children}})
      put(bound, 250, 100, grown: 100, supervisor: supervisor)
      put(protected, 500, 1, supervisor: supervisor)
      assert {[bound], :growing} == pids(choose(10))
      Workers.declare(protected, :protected)
      assert {[], :none} == choose(10)
      assert {[], :none} == at_rest(10)
    end
  end

  test "tells the known figures of each" do
    [pid] = [idle()]
    supervisor = supervisor(:one_for_one)
    :ok = Workers.attach(pid, 250, supervisor, :id, [])
    evidence(pid, 7, 5)
    :ok = Workers.sampled(pid, 7 * @mib, @now, :fresh)
    assert {[victim], :growing} = choose(1)

    assert victim == %{
             pid: pid,
             rank: 250,
             bytes: 7 * @mib,
             grown_bytes: 5 * @mib,
             state: :fresh,
             supervisor: supervisor,
             id: :id,
             name: nil
           }
  end

  describe "keys that a concurrent change has left behind" do
    test "are no verdict" do
      pid = worker(250, 10, grown: 10)
      :ets.insert(Plan, {{250, -99 * @mib, pid}})
      :ets.insert(Plan, {{0, -10 * @mib, pid}})
      assert {[%{pid: ^pid, rank: 250, bytes: 10_485_760}], :growing} = choose(10)
    end

    test "of an ended worker are nobody" do
      :ets.insert(Plan, {{250, -99 * @mib, spawn(fn -> :ok end)}})
      assert {[], :none} == choose(10)
    end

    test "do not put a small worker before a large one" do
      small = worker(250, 10, grown: 10)
      large = worker(250, 50, grown: 10)
      :ets.insert(Plan, {{250, -99 * @mib, small}})
      assert {[large, small], :growing} == pids(choose(40, need_bytes: 51 * @mib))
    end
  end

  describe "limits/3" do
    test "are the guard's for steady workers: the lowest and largest that cover so many bytes" do
      worker(250, 10)
      large = worker(500, 30)
      now = System.monotonic_time(:millisecond)
      for pid <- [large], do: Workers.sampled(pid, 30 * @mib, now, :fresh)
      limits = VictimQueue.limits(20 * @mib, 64, now)
      assert {[large], :steady} == pids(VictimQueue.choose(limits))
    end
  end

  describe "line/3" do
    test "has the largest of each rank and workers never looked at, the lowest rank first" do
      [a, b, c] = [worker(250, 10), worker(250, 20), worker(500, 30)]
      fresh = new(250)
      assert [fresh, b, a, c] == VictimQueue.line(100, 100, %{})
      assert [fresh, b] == VictimQueue.line(2, 100, %{})
      # A quarter of the line may be new.
      assert [fresh, b, a, c] == VictimQueue.line(100, 4, %{})
      assert [b, c] == VictimQueue.line(100, 1, %{})
    end

    test "is without workers left alone, and without the protected" do
      [a, b] = [worker(250, 10), worker(250, 20)]
      protected = worker(:protected, 30)
      :ets.insert(Plan, {{250, -30 * @mib, protected}})
      assert [a] == VictimQueue.line(100, 100, %{b => 1})
    end
  end

  # In MiB.
  defp choose(need, changed \\ []) do
    VictimQueue.choose(
      Map.merge(
        %{
          need_bytes: round(need * @mib),
          steady_bytes: nil,
          soon_bytes: nil,
          recent_bytes: Limits.recent_bytes(),
          ended: %EndedGrowth{},
          crowd_bytes: 0,
          used_bytes: 60 * @mib,
          count: 64,
          min_bytes: 1,
          grows?: true,
          fresh_ms: Limits.fresh_ms(),
          late: :wait,
          ceiling: 1000,
          now_ms: @now
        },
        Map.new(changed)
      )
    )
  end

  defp at_rest(need, changed \\ []),
    do: choose(need, [grows?: false, steady_bytes: round(need * @mib)] ++ changed)

  defp pids({victims, verdict}), do: {Enum.map(victims, & &1.pid), verdict}

  defp new(rank) do
    pid = idle()
    :ok = Workers.declare(pid, rank)
    pid
  end

  # A worker shown to have grown by so much in this episode. With `shown: false` it was looked at once.
  defp worker(rank, mib, options \\ []), do: put(idle(), rank, mib, options)

  # The queue does not ask whether a process lives; a number stands for a process where many are needed.
  defp row(rank, mib, options \\ []),
    do: put(System.unique_integer(), rank, mib, options)

  defp put(pid, rank, mib, options) do
    :ok = Workers.attach(pid, rank, options[:supervisor], nil, [])
    evidence(pid, mib, options[:grown] || 0, Keyword.get(options, :shown, true))
    if looked_ms = options[:looked_ms], do: looked(pid, looked_ms, options[:once] == true)
    at_ms = Keyword.get(options, :at_ms, @now)
    :ok = Workers.sampled(pid, round(mib * @mib), at_ms, options[:state] || :fresh)
    pid
  end

  defp evidence(pid, _mib, grown_mib, shown? \\ true) do
    grown = if shown?, do: round(grown_mib * @mib), else: 0
    evidence = %{grown: grown, shown?: shown?, episode: Level.episode()}
    Workers.worked(pid, {0, @now, %{evidence: evidence}})
  end

  # Growth was seen at that time, without any look since.
  defp looked(pid, at_ms, once?) do
    {{reductions, _, %{evidence: evidence}}, _, _} = Workers.last_look(pid)
    Workers.worked(pid, {reductions, at_ms, %{evidence: Map.put(evidence, :once?, once?)}})
  end

  defp child(pid),
    do: %{id: pid, pid: pid, type: :worker, restart: :permanent, significant: false}

  # A supervisor of the given kind, known to the tree.
  defp supervisor(kind) do
    pid = idle()

    facts = if kind == :dynamic, do: :dynamic, else: {kind, :never, []}
    :ets.insert(OOM.Tree, {pid, :supervisor, nil, [], facts})
    pid
  end
end
