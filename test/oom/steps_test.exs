defmodule OOM.StepsTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Steps, Workers}

  @mib 1_048_576

  test "sums what working workers hold in binaries that grow by appending" do
    other = idle()
    for pid <- [self(), other], do: Workers.declare(pid, 250)
    Steps.put(self(), 3 * @mib)
    Steps.put(other, 4 * @mib)
    assert Steps.bytes() == 7 * @mib
    Steps.put(self(), 5 * @mib)
    assert Steps.bytes() == 9 * @mib
  end

  # Its row would count for ever, and those next in line die for it.
  test "knows nothing of one that ended while a probe looked at it" do
    pid = idle()
    :ok = Workers.declare(pid, 250)
    Workers.delete(pid)
    Steps.put(pid, 3 * @mib)
    assert Steps.bytes() == 0
    assert :ets.info(Steps, :size) == 0
  end

  test "forgets what has become small, and workers that are gone" do
    :ok = Workers.declare(self(), 250)
    Steps.put(self(), 3 * @mib)
    Steps.put(self(), 1_000)
    assert Steps.bytes() == 0

    pid = idle()
    :ok = Workers.declare(pid, 250)
    Steps.put(pid, 3 * @mib)
    Workers.delete(pid)
    assert Steps.bytes() == 0
  end

  test "counts a hundred of them: more will not do it at once" do
    for n <- 1..150, do: :ets.insert(Steps, {n, @mib})
    assert Steps.bytes() == 100 * @mib
  end
end
