defmodule OOM.NotifierTest do
  # Every subscriber of the VM hears the changes of these tests.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Notifier, Snapshot}

  setup do
    # Earlier tests may have told a change.
    change(:high, :normal)

    on_exit(fn ->
      OOM.Level.put(:normal)
      change(:high, :normal)
    end)
  end

  test "a subscriber is told each change, with a snapshot" do
    :ok = OOM.subscribe()
    change(:normal, :high)
    assert_receive {:oom, :high, %Snapshot{level: :high, limit_bytes: limit}}, 5_000
    assert is_integer(limit)
    change(:high, :normal)
    assert_receive {:oom, :normal, %Snapshot{level: :normal}}, 5_000
    refute_received {:oom, _, _}
  end

  test "subscribing twice is the same as once" do
    :ok = OOM.subscribe()
    :ok = OOM.subscribe()
    change(:normal, :high)
    assert_receive {:oom, :high, _}, 5_000
    settled()
    refute_received {:oom, _, _}
    :ok = OOM.unsubscribe()
    change(:high, :normal)
    settled()
    refute_received {:oom, _, _}
  end

  test "unsubscribing ends the messages, and needs no subscription" do
    :ok = OOM.unsubscribe()
    :ok = OOM.subscribe()
    :ok = OOM.unsubscribe()
    :ok = OOM.unsubscribe()
    change(:normal, :high)
    settled()
    refute_received {:oom, _, _}
  end

  test "a subscriber that ends is forgotten" do
    test = self()

    {pid, ref} =
      spawn_monitor(fn ->
        :ok = OOM.subscribe()
        send(test, :subscribed)
        receive(do: (:leave -> :ok))
      end)

    assert_receive :subscribed, 5_000
    assert is_map_key(:sys.get_state(Notifier), pid)
    send(pid, :leave)
    assert_receive {:DOWN, ^ref, _, _, :normal}, 5_000
    eventually(fn -> not is_map_key(:sys.get_state(Notifier), pid) end)
  end

  test "a process that unsubscribes is not watched any more" do
    :ok = OOM.subscribe()
    :ok = OOM.unsubscribe()
    monitors = Process.info(Process.whereis(Notifier), :monitors) |> elem(1)
    refute {:process, self()} in monitors
  end

  test "all subscribers are told" do
    test = self()

    pids =
      for _ <- 1..100 do
        spawn_link(fn ->
          :ok = OOM.subscribe()
          send(test, {:subscribed, self()})
          receive(do: ({:oom, level, _} -> send(test, {:told, self(), level})))
        end)
      end

    for pid <- pids, do: assert_receive({:subscribed, ^pid}, 5_000)
    change(:normal, :elevated)
    for pid <- pids, do: assert_receive({:told, ^pid, :elevated}, 5_000)
  end

  test "an unchanged level is told to nobody" do
    :ok = OOM.subscribe()
    change(:high, :normal)
    settled()
    refute_received {:oom, _, _}
  end

  test "a crash loses no subscriber, and no change meanwhile" do
    :ok = OOM.subscribe()
    {gone, ref} = spawn_monitor(fn -> OOM.subscribe() end)
    assert_receive {:DOWN, ^ref, _, _, :normal}, 5_000
    change(:normal, :elevated)
    assert_receive {:oom, :elevated, _}, 5_000
    OOM.Level.put(:elevated)
    crash()
    refute_received {:oom, _, _}
    refute is_map_key(:sys.get_state(Notifier), gone)

    # As the guard does. Nobody hears the notifier then.
    OOM.Level.put(:high)
    crash()
    assert_receive {:oom, :high, %Snapshot{level: :high}}, 5_000
    change(:high, :normal)
    assert_receive {:oom, :normal, _}, 5_000
    refute_received {:oom, _, _}
    :ok = OOM.unsubscribe()
    crash()
    refute is_map_key(:sys.get_state(Notifier), self())
  end

  defp crash do
    before = Process.whereis(Notifier)
    ref = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
    eventually(fn -> Process.whereis(Notifier) not in [nil, before] end)
    settled()
  end

  # As the guard does on a change.
  defp change(from, to) do
    report = OOM.Native.watcher_report(eventually(&OOM.Tables.watcher/0))
    Notifier.level(from, %{report | level: to})
  end

  # Waits until all earlier changes have been sent.
  defp settled, do: :sys.get_state(Notifier)
end
