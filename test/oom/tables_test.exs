defmodule OOM.TablesTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.Tables

  test "keep the configuration and the watcher" do
    assert Tables.config() == OOM.Config.new!([])
    assert Tables.watcher() == nil
    ref = make_ref()
    Tables.put_watcher(ref)
    assert Tables.watcher() == ref
    Tables.put_watcher(nil)
    assert Tables.watcher() == nil
  end

  test "gone, nothing is known" do
    :ok = stop_supervised(Tables)
    assert Tables.config() == nil
    assert Tables.watcher() == nil
    assert OOM.snapshot() == %OOM.Snapshot{}
  end

  test "gone in part while the application is stopped, the tables fail no caller" do
    gone = fn -> :ets.lookup(:a_table_that_is_gone, 1) end
    assert_raise ArgumentError, fn -> Tables.while_there(gone) end
    Tables.put_stopping()
    assert Tables.while_there(gone) == :ok
  end

  test "gone altogether, a look at a worker ends quietly" do
    {:ok, pid} = Agent.start_link(fn -> nil end)
    {pids, cursor} = OOM.Probe.chunk([pid])
    :ok = stop_supervised(Tables)
    assert OOM.Probe.run(pids, cursor, :atomics.new(1, [])) == :ok
  end
end
