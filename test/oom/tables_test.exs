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
end
