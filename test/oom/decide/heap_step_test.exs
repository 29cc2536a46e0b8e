defmodule OOM.HeapStepTest do
  # Compares the prediction with the VM's own account of its collections.
  use ExUnit.Case, async: true

  alias OOM.HeapStep

  # A collection begins with a word or two requested by the caller.
  @asked_bytes 4_096

  for kind <- [:list, :map, :dictionary, :binaries, :garbage] do
    test "tells which collections copy the whole heap: #{kind}" do
      collections = collections(fn -> unquote(kind) |> work() |> :erlang.phash2() end)
      assert length(collections) > 10
      assert Enum.any?(collections, &match?({_, :major, _}, &1))
      assert Enum.any?(collections, &match?({_, :minor, _}, &1))

      for {before, kind, copied_bytes} <- collections do
        assert {HeapStep.minor?(before), kind} in [{true, :minor}, {false, :major}]
        assert copied_bytes <= HeapStep.bytes(before) + @asked_bytes
      end
    end
  end

  test "a minor collection copies the young heap and its fragments only" do
    info = [
      heap_size: 100,
      mbuf_size: 20,
      recent_size: 50,
      old_heap_size: 400,
      old_heap_block_size: 500,
      bin_old_vheap_size: 0,
      bin_old_vheap_block_size: 1_000
    ]

    assert HeapStep.bytes(info) == 120 * 8
    assert HeapStep.bytes(Keyword.put(info, :recent_size, 101)) == 520 * 8
    assert HeapStep.bytes(Keyword.put(info, :bin_old_vheap_size, 1_000)) == 520 * 8
    no_old_heap = Keyword.merge(info, old_heap_size: 0, old_heap_block_size: 0)
    assert HeapStep.minor?(no_old_heap)
    refute HeapStep.minor?(Keyword.put(no_old_heap, :recent_size, 0))
  end

  defp work(:list), do: Enum.reduce(1..300_000, [], &[{&1, &1} | &2])
  defp work(:map), do: Map.new(1..100_000, &{&1, {&1, "v"}})
  defp work(:dictionary), do: for(i <- 1..100_000, do: Process.put(i, {i, i}))
  defp work(:binaries), do: for(i <- 1..20_000, do: :binary.copy(<<i>>, 2_000))

  defp work(:garbage) do
    Enum.reduce(1..200, %{}, fn i, kept ->
      _ = Enum.to_list(1..20_000)
      Map.put(kept, i, Enum.to_list(1..2_000))
    end)
  end

  # Returns the process info before each collection, and the kind of the collection. The VM reports a minor
  # collection before noticing that a major collection is due, and then ends the minor one at once.
  defp collections(work) do
    {pid, monitor} =
      spawn_monitor(fn ->
        receive do: (:go -> work.())
      end)

    :erlang.trace(pid, true, [:garbage_collection])
    send(pid, :go)
    assert_receive {:DOWN, ^monitor, _, _, :normal}, 60_000
    # Every trace message is delivered before the confirmation.
    ref = :erlang.trace_delivered(pid)
    assert_receive {:trace_delivered, _, ^ref}, 60_000
    pid |> events([]) |> pair()
  end

  defp events(pid, events) do
    receive do
      {:trace, ^pid, event, info} -> events(pid, [{event, info} | events])
    after
      0 -> Enum.reverse(events)
    end
  end

  defp pair([{:gc_major_start, info}, {:gc_major_end, later} | events]),
    do: [{info, :major, copied(:major, info, later)} | pair(events)]

  defp pair([{:gc_minor_start, info}, {:gc_minor_end, later} | events]) do
    if info[:heap_size] == later[:heap_size] and match?([{:gc_major_start, _} | _], events),
      do: pair(events),
      else: [{info, :minor, copied(:minor, info, later)} | pair(events)]
  end

  defp pair([]), do: []

  defp copied(:major, _before, later), do: 8 * (later[:heap_size] + later[:old_heap_size])

  defp copied(:minor, before, later),
    do: 8 * (later[:heap_size] + later[:old_heap_size] - before[:old_heap_size])
end
