defmodule OOM.VictimsTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.Victims

  test "a marked process is known, with its size" do
    refute Victims.marked?(self())
    assert Victims.bytes(self()) == 0
    Victims.mark(self(), 0, 7)
    assert Victims.marked?(self())
    assert Victims.bytes(self()) == 7
  end

  test "the last mark counts" do
    Victims.mark(self(), 0, 7)
    Victims.mark(self(), 1, 9)
    assert Victims.bytes(self()) == 9
  end

  test "sweep/1 drops marks a minute old" do
    [old, new] = [idle(), idle()]
    Victims.mark(old, 0, 1)
    Victims.mark(new, 2, 1)
    assert Victims.sweep(60_000) == 0
    assert Victims.sweep(60_001) == 1
    refute Victims.marked?(old)
    assert Victims.marked?(new)
  end

  test "nobody is marked while there are no tables" do
    Victims.mark(self(), 0, 7)
    :ok = stop_supervised(OOM.Tables)
    refute Victims.marked?(self())
  end
end
