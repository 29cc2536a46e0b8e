defmodule OOM.HeldBinariesTest do
  use ExUnit.Case, async: true

  alias OOM.HeldBinaries

  @kib 1_024
  @mib 1_048_576

  defmodule Keeper do
    use GenServer
    def start_link(_), do: GenServer.start_link(__MODULE__, [])
    def init(kept), do: {:ok, kept}
    def handle_info({:keep, part}, kept), do: {:noreply, [part | kept]}
    def handle_call(:count, _from, kept), do: {:reply, length(kept), kept}
    def handle_call({:run, fun}, _from, kept), do: {:reply, :ok, fun.(kept)}
  end

  test "a worker that keeps small parts of large messages and seldom runs is found" do
    pid = keeper()
    first = look(pid, nil)
    for n <- 1..12, do: send(pid, {:keep, binary_part(:binary.copy(<<n>>, 200 * @kib), 0, 100)})
    12 = GenServer.call(pid, :count)
    :erlang.garbage_collect()
    found = look(pid, first)
    assert_in_delta HeldBinaries.virtual_bytes(gc(pid)) + found.hidden, 2_400 * @kib, 20 * @kib

    # One more, which takes the worker some ten reductions.
    send(pid, {:keep, binary_part(:binary.copy(<<1>>, 200 * @kib), 0, 100)})
    13 = GenServer.call(pid, :count)
    :erlang.garbage_collect()
    found = look(pid, found)
    assert_in_delta HeldBinaries.virtual_bytes(gc(pid)) + found.hidden, 2_600 * @kib, 20 * @kib
  end

  test "a worker that kept them before the first look is found, too" do
    pid = keeper()
    for n <- 1..12, do: send(pid, {:keep, binary_part(:binary.copy(<<n>>, 200 * @kib), 0, 100)})
    12 = GenServer.call(pid, :count)
    :erlang.garbage_collect()
    found = look(pid, look(pid, nil))
    assert_in_delta HeldBinaries.virtual_bytes(gc(pid)) + found.hidden, 2_400 * @kib, 20 * @kib
  end

  test "a large binary made in one piece takes no further step" do
    pid = keeper()
    first = look(pid, nil)
    run(pid, fn _ -> [:binary.copy(<<1>>, 64 * @mib)] end)
    found = look(pid, first)
    assert found.all >= 64 * @mib
    assert found.step == 0
  end

  test "a binary that grows by appending takes twice its size" do
    pid = keeper()
    first = look(pid, nil)
    run(pid, fn _ -> append(<<>>, 128) end)
    found = look(pid, first)
    assert found.step == 2 * found.all
    # The collection shows the binary to the virtual heap.
    :erlang.garbage_collect(pid)
    run(pid, &append(&1, 256))
    assert look(pid, found).step >= 48 * @mib
  end

  test "a heap with very many binaries is not asked again, and keeps what was found" do
    pid = keeper()
    run(pid, fn _ -> for n <- 1..100, do: :binary.copy(<<n>>, 1_000) end)
    found = look(pid, look(pid, nil))
    assert found.count == 100
    # As if that many binaries were in a heap that has grown since.
    many = %{found | count: 70_000, words: 500_000}
    gc = Keyword.merge(gc(pid), heap_block_size: 600_000)
    assert %{asked?: true, count: 70_000} = HeldBinaries.read(pid, gc, 1_000_000, :waiting, many)
  end

  test "a worker without binaries is never asked" do
    assert %{asked?: false, all: 0} =
             HeldBinaries.read(:no_pid, no_binaries(), 1_000, :waiting, %HeldBinaries{at: 0})
  end

  @piece :binary.copy(<<1>>, 65_536)
  defp append(binary, 0), do: binary
  defp append(binary, n), do: append(<<binary::binary, @piece::binary>>, n - 1)

  defp no_binaries,
    do: [bin_vheap_size: 0, bin_old_vheap_size: 0, heap_block_size: 233, old_heap_block_size: 0]

  defp look(pid, last) do
    {_, reductions} = :erlang.process_info(pid, :reductions)
    HeldBinaries.read(pid, gc(pid), reductions, :waiting, last)
  end

  defp gc(pid), do: pid |> :erlang.process_info(:garbage_collection_info) |> elem(1)
  defp run(pid, fun), do: :ok = GenServer.call(pid, {:run, fun})
  defp keeper, do: start_supervised!(Keeper, id: make_ref())
end
