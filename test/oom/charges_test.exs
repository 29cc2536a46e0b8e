defmodule OOM.ChargesTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Charges, Limits, Workers}

  @mib 1_048_576

  test "a charge counts at once, and fades" do
    pid = worker()
    Charges.put(pid, 8 * @mib, 0)
    assert Charges.grown_bytes(pid, 0) == 8 * @mib
    assert Charges.grown_bytes(pid, Limits.suspect_ms()) == 8 * @mib
    later = Charges.grown_bytes(pid, Limits.suspect_ms() + Limits.grown_ms())
    assert later in (2 * @mib)..(4 * @mib)
    assert Charges.grown_bytes(pid, 10_000) == 0
  end

  test "a process that is no worker, or has ended, is not charged" do
    Charges.put(self(), @mib, 0)
    assert Charges.grown_bytes(self(), 0) == 0

    pid = worker()
    Charges.put(pid, @mib, 0)
    Workers.delete(pid)
    assert Charges.grown_bytes(pid, 0) == 0
  end

  defp worker do
    pid = idle()
    :ok = Workers.declare(pid, 250)
    pid
  end
end
