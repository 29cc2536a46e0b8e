defmodule OOM.LedgerTest do
  use ExUnit.Case, async: false

  alias OOM.{Accountant, Ledger}
  alias OOM.Reporter.LedgerWords

  @mib 1_048_576
  @memory [
    total: 100,
    processes: 40,
    processes_used: 39,
    system: 60,
    atom: 1,
    atom_used: 1,
    binary: 30,
    code: 10,
    ets: 9
  ]

  describe "new/4" do
    test "adds up to what is used" do
      ledger = Ledger.new(200, 150, %{own: 20, tables: 5, ports: 3, children: 2}, @memory)
      assert %{workers_bytes: 30, vm_bytes: 70, unexplained_bytes: 50, others_bytes: 50} = ledger
      assert ledger.vm == %{processes: 40, binary: 30, ets: 9, atom: 1, code: 10, system: 10}
    end

    test "does, too, where the figures are of different moments" do
      for used <- [0, 50, 100, 1_000], rss <- [0, 99, 101, 2_000], own <- [0, 60, 500] do
        workers = %{own: own, tables: 1, ports: 0, children: 0}
        ledger = Ledger.new(used, rss, workers, @memory)

        parts = [
          ledger.workers_bytes,
          ledger.vm_bytes,
          ledger.unexplained_bytes,
          ledger.others_bytes
        ]

        assert Enum.sum(parts) == used
        assert Enum.all?(parts, &(&1 >= 0))
      end
    end
  end

  test "grown/3 tells the growth of each part a second" do
    none = %{own: 0, tables: 0, ports: 0, children: 0}
    before = Ledger.new(200, 150, none, @memory)
    ledger = Ledger.new(300, 150, %{none | own: 50}, @memory)

    assert Ledger.grown(ledger, before, 500).growth_bytes_per_s ==
             %{workers: 100, vm: -100, unexplained: 0, others: 200}
  end

  test "a snapshot of a running node has one, and a large worker is in it" do
    pid = start_supervised!({Agent, fn -> :binary.copy(<<1>>, 64 * @mib) end})
    :ok = OOM.set_priority(pid, :low)
    Accountant.pass()
    Accountant.pass()
    :ets.delete(OOM.State, :ledger)
    assert %{ledger: %Ledger{} = ledger} = snapshot = OOM.snapshot()
    assert ledger.used_bytes == snapshot.working_set_bytes
    assert ledger.workers_bytes >= 64 * @mib
    assert ledger.workers.own >= 64 * @mib
    assert ledger.vm.binary >= 64 * @mib
    # Until the next is due the ledger is the same.
    assert %{OOM.snapshot().ledger | age_ms: 0} == ledger
  end

  test "in words" do
    ledger =
      Ledger.new(
        200 * @mib,
        150 * @mib,
        %{own: 20 * @mib, tables: 0, ports: 0, children: 0},
        for({key, mib} <- @memory, do: {key, mib * @mib})
      )

    growth = %{workers: 2 * @mib, vm: 0, unexplained: -@mib, others: 10}

    assert LedgerWords.of(%{ledger | growth_bytes_per_s: growth}) ==
             ". Whose the memory is: 20.0 MiB of known workers (growing by 2.0 MiB/s), " <>
               "80.0 MiB the VM's own, 50.0 MiB free or unexplained inside the VM, " <>
               "50.0 MiB outside of the VM. The VM's account: processes 40.0 MiB, binary 30.0 MiB, " <>
               "code 10.0 MiB, system 10.0 MiB, ets 9.0 MiB, atom 1.0 MiB"

    assert LedgerWords.of(nil) == ""
  end
end
