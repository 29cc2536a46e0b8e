defmodule OOM.StepsTest do
  use OOM.Test.TablesCase, async: false

  alias OOM.{Steps, Workers}

  @mib 1_048_576

  test "tells the largest step, and the sum of the largest, one for each scheduler" do
    assert Steps.largest() == {0, 0}
    schedulers = :erlang.system_info(:schedulers_online)
    # Twice the number of schedulers.
    for n <- 1..(2 * schedulers), do: step(n)
    largest = 2 * schedulers * @mib
    together = Enum.sum(for n <- (schedulers + 1)..(2 * schedulers), do: n * @mib)
    assert Steps.largest() == {largest, together}
  end

  test "tells the step of a single worker" do
    pid = step(3)
    assert Steps.bytes_of(pid) == 3 * @mib
    assert Steps.bytes_of(self()) == 0
    Steps.put(pid, 5 * @mib)
    assert Steps.bytes_of(pid) == 5 * @mib
  end

  # The worker's row would count for ever, and healthy workers would die for the row.
  test "knows nothing of a worker that ended during a look" do
    pid = idle()
    :ok = Workers.declare(pid, 250)
    Workers.delete(pid)
    Steps.put(pid, 3 * @mib)
    assert Steps.largest() == {0, 0}
    assert :ets.info(Steps, :size) == 0
  end

  test "forgets small steps, and workers that are gone" do
    pid = step(3)
    Steps.put(pid, 1_000)
    assert Steps.bytes_of(pid) == 0

    pid = step(3)
    Workers.delete(pid)
    assert Steps.largest() == {0, 0}
    assert :ets.info(Steps, :size) == 0
  end

  test "looks at a thousand workers: with more there are no large steps" do
    for n <- 1..1_000, do: :ets.insert(Steps, {n, @mib})
    :ets.insert(Steps, {1_001, 99 * @mib})
    assert {@mib, _} = Steps.largest()
    :ets.delete(Steps, 1)
    assert {103_809_024, _} = Steps.largest()
  end

  defp step(mib) do
    pid = idle()
    :ok = Workers.declare(pid, 250)
    Steps.put(pid, mib * @mib)
    pid
  end
end
