defmodule OOM.StoppedTest do
  # The public API while the application does not run.
  use ExUnit.Case, async: false

  setup_all do
    :ok = Application.stop(:oom)
    on_exit(fn -> :ok = Application.start(:oom) end)
  end

  @message "the :oom application is not started"

  test "set_priority raises" do
    assert_raise ArgumentError, @message, fn -> OOM.set_priority(:low) end
    assert_raise ArgumentError, @message, fn -> OOM.set_priority(self(), :low) end

    assert_raise ArgumentError, @message, fn ->
      OOM.set_priority(:low, max_heap_size: 8_000_000)
    end

    assert {_, info} = Process.info(self(), :garbage_collection)
    assert info[:max_heap_size].size == 0
  end

  test "a bad priority is still the first complaint" do
    assert_raise ArgumentError, ~r/^expected priority/, fn -> OOM.set_priority(-1) end
  end

  test "the level is normal, and everyone is let in" do
    assert OOM.level() == :normal
    for class <- [:low, :normal, :high], do: assert(OOM.admit?(class))
  end

  test "nothing is known" do
    assert OOM.snapshot() == %OOM.Snapshot{}
  end

  test "subscribe exits" do
    assert {:noproc, _} = catch_exit(OOM.subscribe())
    assert {:noproc, _} = catch_exit(OOM.unsubscribe())
  end

  test "child_spec/2 works, and so does the child" do
    child = OOM.child_spec({Agent, fn -> 7 end}, priority: :low, max_heap_size: 8_000_000)
    pid = start_supervised!(child)
    assert Agent.get(pid, & &1) == 7
  end

  test "nothing is left in the logger" do
    filters = :logger.get_primary_config().filters
    refute List.keymember?(filters, OOM.HeapReports, 0)
  end
end
