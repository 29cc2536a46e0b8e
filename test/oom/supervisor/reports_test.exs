defmodule OOM.Supervisor.ReportsTest do
  # Looks at every event of the VM's logger, before Elixir's own filters.
  use ExUnit.Case, async: false

  import OOM.Test.HeldTree

  setup do
    filters = :logger.get_primary_config().filters
    test = self()

    tell = fn
      %{msg: {:report, %{label: {:supervisor, kind}, report: report}}}, _ ->
        send(test, {:report, kind, report})
        :ignore

      _, _ ->
        :ignore
    end

    :ok = :logger.set_primary_config(:filters, [{:tell, {tell, nil}} | filters])
    on_exit(fn -> :logger.set_primary_config(:filters, filters) end)
  end

  test "a crash is reported, as ever" do
    {sup, %{a: a}} = start(:long, [:a], max_restarts: 10)
    GenServer.cast(a, {:stop, :crash})
    assert_receive {:report, :child_terminated, report}
    assert report[:reason] == :crash
    assert report[:supervisor] == {sup, Supervisor.Default}
    started(:a)
  end

  for shutdown <- [:brutal_kill, 5_000, :infinity], restart <- [:permanent, :transient] do
    test "a #{restart} child with shutdown: #{inspect(shutdown)} is held without a report" do
      child = worker(:a, shutdown: unquote(shutdown), restart: unquote(restart))
      {sup, %{a: a}} = start(:long, [child])
      hold(sup, :a, a)
      assert %{active: 0} = Supervisor.count_children(sup)
      assert reports(sup) == []
    end
  end

  test "a temporary child is forgotten without a report" do
    {sup, %{a: a}} = start(:long, [worker(:a, restart: :temporary)])
    kill(a)
    OOM.Test.Eventually.eventually(fn -> Supervisor.which_children(sup) == [] end)
    assert reports(sup) == []
  end

  for shutdown <- [:brutal_kill, 5_000] do
    test "a unit with shutdown: #{inspect(shutdown)} is held without a report" do
      children = for id <- [:a, :b, :c], do: worker(id, shutdown: unquote(shutdown))
      {sup, %{b: b}} = start(:long, children, strategy: :one_for_all)
      hold(sup, :b, b)
      assert reports(sup) == []
    end
  end

  test "a killed victim is held without a report" do
    for shutdown <- [:brutal_kill, 5_000] do
      {sup, %{a: a}} = start(:long, [worker(:a, shutdown: shutdown)])
      OOM.Victims.mark(a, System.monotonic_time(:millisecond), 1)
      Process.exit(a, :kill)
      OOM.Test.Eventually.eventually(fn -> held(sup, :a) end)
      assert reports(sup) == []
    end
  end

  # Returns all reports of the supervisor so far: the supervisor itself writes each report, through this
  # filter.
  defp reports(supervisor) do
    :sys.get_state(supervisor)
    take(supervisor)
  end

  defp take(supervisor) do
    receive do
      {:report, kind, report} ->
        case report[:supervisor] do
          {^supervisor, _} when kind != :progress -> [{kind, report} | take(supervisor)]
          _ -> take(supervisor)
        end
    after
      0 -> []
    end
  end
end
