defmodule OOM.Supervisor.TurnedAwayTest do
  # Starts made by a supervisor itself while memory is critical. The tests set the level by hand.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  alias OOM.{Level, RecentKills, Tables}

  @options [
    strategy: :one_for_one,
    max_restarts: 1,
    oom: [priority: :low, backoff: [initial_ms: 10, max_ms: 50]]
  ]

  setup do
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    told()
    # The state lasts until the test changes it, however long the test takes.
    killed(-3_600_000)

    on_exit(fn ->
      killed(2_000)
      Level.put(:normal)
    end)
  end

  defp start_critical(children, options \\ []) do
    Level.put(:critical)
    start = {OOM.Supervisor, :start_link, [children, Keyword.merge(@options, options)]}
    start_supervised!(%{id: make_ref(), restart: :temporary, type: :supervisor, start: start})
  end

  defp child(id, options), do: id |> worker() |> OOM.child_spec(options)

  test "at its beginning: children of priority :low or less are held until kills are over" do
    children = [
      :a |> child([]),
      :b |> child(priority: 251),
      :c |> child(priority: 249),
      :d |> child(priority: :normal),
      :e |> child(priority: :protected),
      :f |> worker(restart: :temporary) |> OOM.child_spec([])
    ]

    log =
      capture_log(fn ->
        sup = start_critical(children)
        assert running(sup) == [:b, :d, :e, :f]

        assert [{:a, 0, 1}, {:c, 0, 1}] =
                 Enum.sort(
                   for %{supervisor: ^sup} = held <- OOM.held(),
                       do: {held.id, held.kills, held.failures}
                 )

        killed(2_000)
        assert is_pid(started(:a))
        assert is_pid(started(:c))
        eventually(fn -> held(sup, :a) == nil and held(sup, :c) == nil end)
        assert Enum.sort(running(sup)) == [:a, :b, :c, :d, :e, :f]
        told()
      end)

    assert log =~
             "not started while memory is critical, and held: 2 children, such as :a of #PID<"
  end

  test "after a crash, which counts as ever" do
    {sup, %{a: a, b: b}} =
      start(:short, [child(:a, priority: :low), child(:b, priority: :normal)], max_restarts: 1)

    Level.put(:critical)
    crash(b)
    assert is_pid(started(:b))
    stopped = Process.monitor(sup)
    crash(a)
    # The second crash was one too many.
    assert_receive {:DOWN, ^stopped, _, _, :shutdown}, 10_000

    Level.put(:normal)
    {sup, %{c: c}} = start(:short, [child(:c, priority: :low)], max_restarts: 1)
    Level.put(:critical)
    crash(c)
    assert %{kills: 0, failures: 1} = eventually(fn -> held(sup, :c) end)
    assert running(sup) == []
    # The level need not be normal again for the start.
    killed(2_000)
    assert started(:c) != c
  end

  test "a child started on request is started" do
    sup = start_critical([child(:a, [])])
    assert held(sup, :a)
    assert {:ok, pid} = Supervisor.restart_child(sup, :a)
    assert started(:a) == pid
    assert held(sup, :a) == nil
    assert {:ok, _} = Supervisor.start_child(sup, child(:b, priority: :low))
    assert Enum.sort(running(sup)) == [:a, :b]
  end

  test "children that restart together are not taken apart" do
    for strategy <- [:one_for_all, :rest_for_one] do
      sup = start_critical([child(:a, []), child(:b, priority: :normal)], strategy: strategy)
      assert running(sup) == [:a, :b]
    end
  end

  test "a supervisor is started, and holds its own; a unit is not" do
    below = fn id, children ->
      {OOM.Supervisor, :start_link, [children, [name: id] ++ @options]}
    end

    spec = fn id, children, options ->
      OOM.child_spec(%{id: id, type: :supervisor, start: below.(id, children)}, options)
    end

    sup =
      start_critical([
        spec.(:turned_away_below, [child(:a, [])], []),
        spec.(:turned_away_unit, [child(:b, [])], unit: true)
      ])

    assert running(sup) == [:turned_away_below]
    assert running(Process.whereis(:turned_away_below)) == []
    assert held(sup, :turned_away_unit)
    killed(2_000)
    assert is_pid(started(:a))
    assert is_pid(started(:b))
  end

  test "where nobody is killed, all are started: kills are over, or not allowed" do
    killed(2_000)
    assert running(start_critical([child(:a, [])])) == [:a]
    killed(-3_600_000)
    watching_only()
    assert running(start_critical([child(:a, [])])) == [:a]
  end

  test "children more important than the victims of the guard are started" do
    killed(-3_600_000, 100)
    sup = start_critical([child(:a, priority: 100), child(:b, priority: 101)])
    assert running(sup) == [:b]
    assert held(sup, :a)
  end

  test "where nobody may be killed, heaps are bounded only on request" do
    watching_only()
    {_, %{a: a, b: b}} = start(:short, [child(:a, []), child(:b, max_heap_size: 80_000_000)])
    for pid <- [a, b], do: eventually(fn -> mailbox(pid) == :off_heap end)
    assert {0, 10_000_000} == {max_words(a), max_words(b)}
  end

  test "a significant child is started: its supervisor would miss it as ended" do
    children = [:a |> worker(restart: :transient, significant: true) |> OOM.child_spec([])]
    sup = start_critical(children, auto_shutdown: :any_significant)
    assert running(sup) == [:a]
  end

  test "high is not critical" do
    Level.put(:high)
    assert {sup, %{a: _}} = start(:short, [child(:a, priority: :low)])
    assert held(sup, :a) == nil
  end

  # Waits until the reporter has written everything gathered so far.
  defp told, do: eventually(fn -> :sys.get_state(OOM.Reporter).away == {0, []} end)

  defp watching_only do
    config = Tables.config()
    :ets.insert(OOM.State, {:config, %{config | kill: false}})
    on_exit(fn -> :ets.insert(OOM.State, {:config, config}) end)
  end

  defp mailbox(pid), do: pid |> Process.info(:message_queue_data) |> elem(1)

  defp max_words(pid) do
    {_, gc} = Process.info(pid, :garbage_collection)
    gc[:max_heap_size].size
  end

  # As after a single kill of the given rank, so long ago.
  defp killed(ago_ms, rank \\ 250) do
    for other <- 0..1_000, do: RecentKills.note(other, now() - 1_000_000)
    RecentKills.note(rank, now() - ago_ms)
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp crash(pid) do
    ref = Process.monitor(pid)
    Process.exit(pid, :crash)
    assert_receive {:DOWN, ^ref, _, _, _}, 10_000
  end
end
