defmodule OOM.AppendedTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Appended, Workers}

  @mib 1_048_576

  test "sums what working workers hold in binaries that grow by appending" do
    Appended.put(self(), 3 * @mib)
    Appended.put(idle(), 4 * @mib)
    assert Appended.bytes() == 7 * @mib
    Appended.put(self(), 5 * @mib)
    assert Appended.bytes() == 9 * @mib
  end

  test "forgets what has become small, and workers that are gone" do
    Appended.put(self(), 3 * @mib)
    Appended.put(self(), 1_000)
    assert Appended.bytes() == 0

    pid = idle()
    :ok = Workers.declare(pid, 250)
    Appended.put(pid, 3 * @mib)
    Workers.delete(pid)
    assert Appended.bytes() == 0
  end

  test "counts a hundred of them: more will not do it at once" do
    for n <- 1..150, do: :ets.insert(Appended, {n, @mib})
    assert Appended.bytes() == 100 * @mib
  end
end
