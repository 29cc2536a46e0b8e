defmodule OOM.Supervisor.RejoinTest do
  # The application is stopped and started.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Holds, Priority, Tree, Workers}

  defp tree do
    inner = [worker(:c), OOM.child_spec(worker(:d), priority: 90)]
    nested = {OOM.Supervisor, :start_link, [inner, [strategy: :one_for_one]]}
    unit = {Supervisor, :start_link, [[worker(:e)], [strategy: :one_for_one]]}

    [
      worker(:a),
      OOM.child_spec(worker(:b), priority: :protected),
      OOM.child_spec(%{id: :nested, type: :supervisor, start: nested}, priority: :low),
      OOM.child_spec(%{id: :unit, type: :supervisor, start: unit}, unit: true)
    ]
  end

  defp start_tree do
    {:ok, top} = OOM.Supervisor.start_link(tree(), strategy: :one_for_one)
    {top, for(id <- [:a, :b, :c, :d, :e], do: started(id))}
  end

  defp ranks(pids), do: Enum.map(pids, &Workers.rank/1)

  defp known?(top, [a, b, c, d, e]) do
    expected = [500, :protected, Priority.rank!(:low), 90]

    eventually(fn -> ranks([a, b, c, d]) == expected end)
    {_, unit, _, _} = List.keyfind(Supervisor.which_children(top), :unit, 0)
    assert Workers.member?(unit) and Tree.kind(unit) == :unit
    refute Workers.member?(e)
    assert Tree.kind(top) == :oom
  end

  defp hold_and_release(top, a) do
    OOM.Victims.mark(a, System.monotonic_time(:millisecond), 1)
    Process.exit(a, {:shutdown, :memory_pressure})
    eventually(fn -> :ets.member(Holds, {top, :a}) end)
    eventually(fn -> OOM.release({top, :a}) == :ok end)
    assert started(:a) != a
  end

  test "an application that was stopped and started finds the supervisors again" do
    {top, pids} = start_tree()

    capture_log(fn ->
      :ok = Application.stop(:oom)
      :ok = Application.start(:oom)
      known?(top, pids)
    end)

    hold_and_release(top, hd(pids))
    Supervisor.stop(top)
  end

  test "an application that starts late finds the supervisors, and the supervisor has warned" do
    :persistent_term.erase(OOM.Supervisor.Rejoin)

    log =
      capture_log(fn ->
        :ok = Application.stop(:oom)
        {top, pids} = start_tree()
        :ok = Application.start(:oom)
        known?(top, pids)
        hold_and_release(top, hd(pids))
        Supervisor.stop(top)
      end)

    assert log =~ "the application :oom is not started"
    assert log =~ "found 2 OOM.Supervisors that were started before :oom"
  end
end
