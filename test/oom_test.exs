defmodule OOMTest do
  use ExUnit.Case, async: true

  import OOM.Test.Eventually

  alias OOM.{Snapshot, Workers}

  doctest OOM

  @expected "expected priority to be :low, :normal, :high, :protected or an integer from 0 to 1000, " <>
              "got: "

  describe "set_priority/1" do
    test "registers the caller with its rank" do
      for {priority, rank} <- [low: 250, normal: 500, high: 750, protected: :protected] do
        in_process(fn ->
          assert OOM.set_priority(priority) == :ok

          assert {_, ^rank, 0, nil, :new, _parent, nil, [], nil} = Workers.lookup(self())
        end)
      end
    end

    test "takes integers from 0 to 1000" do
      in_process(fn ->
        for rank <- [0, 1, 1000] do
          assert OOM.set_priority(rank) == :ok
          assert {_, ^rank, _, _, _, _, _, _, _} = Workers.lookup(self())
        end
      end)
    end

    test "refuses all else" do
      for bad <- [-1, 1001, 0.5, :lowest, nil, "low", []] do
        message = @expected <> inspect(bad)
        assert_raise ArgumentError, message, fn -> OOM.set_priority(bad) end
      end

      assert Workers.lookup(self()) == nil
    end

    test "is forgotten when the caller ends" do
      pid =
        in_process(fn ->
          :ok = OOM.set_priority(:low)
          self()
        end)

      eventually(fn -> Workers.lookup(pid) == nil end)
    end
  end

  describe "set_priority/2 with options" do
    test "caps the caller's heap" do
      in_process(fn ->
        :ok = OOM.set_priority(:low, max_heap_size: 8_000_000)
        assert %{size: 1_000_000, kill: true} = cap()
        :ok = OOM.set_priority(:low)
        assert %{size: 1_000_000} = cap()
        :ok = OOM.set_priority(:low, max_heap_size: {:percent_of_limit, 50})
        assert %{size: words} = cap()
        assert_in_delta words * 8, OOM.snapshot().limit_bytes / 2, 8
        :ok = OOM.set_priority(:low, max_heap_size: :infinity)
        assert %{size: 0} = cap()
      end)
    end

    test "counts the caller's binaries where that is asked for, and no longer" do
      in_process(fn ->
        # OTP 25 has no such flag.
        counts? = &if(Map.has_key?(cap(), :include_shared_binaries), do: &1)
        size = %{size: 8_000_000, include_shared_binaries: true}
        :ok = OOM.set_priority(:low, max_heap_size: size)
        assert %{size: 1_000_000, kill: true} = cap()
        assert cap()[:include_shared_binaries] == counts?.(true)
        :ok = OOM.set_priority(:low, max_heap_size: %{size | include_shared_binaries: false})
        assert %{size: 1_000_000, kill: true} = cap()
        assert cap()[:include_shared_binaries] == counts?.(false)
        :ok = OOM.set_priority(:low, max_heap_size: %{size | size: :infinity})
        assert %{size: 0} = cap()
      end)
    end

    test "refuses a size that is none" do
      for bad <- [0, -1, 1.5, "1GB", {:percent_of_limit, 0}, {:percent_of_limit, 101}] do
        message =
          "expected :max_heap_size to be bytes, {:percent_of_limit, p} with 0 < p <= 100, :infinity, " <>
            "or one of these as %{size: size, include_shared_binaries: boolean}, got: #{inspect(bad)}"

        assert_raise ArgumentError, message, fn -> OOM.set_priority(:low, max_heap_size: bad) end
      end
    end

    test "refuses an unknown option" do
      message = "unknown option, expected :max_heap_size or :handle_pressure, got: [max_heap: 1]"

      assert_raise ArgumentError, message, fn -> OOM.set_priority(:low, max_heap: 1) end

      assert_raise ArgumentError, message, fn ->
        OOM.set_priority(:low, max_heap_size: 1, max_heap: 1)
      end
    end

    test "refuses what is no keyword list" do
      for bad <- [%{max_heap_size: 1}, [:max_heap_size], 1] do
        message = "expected options to be a keyword list, got: #{inspect(bad)}"
        assert_raise ArgumentError, message, fn -> OOM.set_priority(:low, bad) end
      end
    end

    # The VM accepts neither less than a process begins with, nor part of a word.
    test "takes any size" do
      check = fn ->
        assert :ok = OOM.set_priority(:low, max_heap_size: 1)
        {_, gc} = Process.info(self(), :garbage_collection)
        assert cap().size == gc[:min_heap_size]
        assert :ok = OOM.set_priority(:low, max_heap_size: Integer.pow(2, 80))
        assert cap().size > 1_000_000_000
      end

      # With room enough to begin with; otherwise the first collection ends the process.
      {_pid, ref} = :erlang.spawn_opt(check, [:monitor, min_heap_size: 100_000])
      assert_receive {:DOWN, ^ref, _, _, :normal}
    end

    test "refused, registers nobody" do
      in_process(fn ->
        assert_raise ArgumentError, fn -> OOM.set_priority(:low, max_heap_size: 0) end
        assert Workers.lookup(self()) == nil
        assert %{size: 0} = cap()
      end)
    end
  end

  test "child_spec/2 refuses options that are no keyword list" do
    for bad <- [:low, [:low], %{priority: :low}] do
      message = "expected options to be a keyword list, got: #{inspect(bad)}"
      assert_raise ArgumentError, message, fn -> OOM.child_spec(Agent, bad) end
    end
  end

  test "release/1 refuses what is no name" do
    for bad <- [{:global}, {:via, 1}, {:via, "m", 1}, 1, {}] do
      assert_raise ArgumentError, ~r/^expected held to be .*, got: /, fn ->
        OOM.release({bad, :a})
      end
    end
  end

  describe "set_priority/2 with a pid" do
    test "registers the process" do
      pid = start_supervised!({Agent, fn -> 0 end})
      assert OOM.set_priority(pid, :high) == :ok
      assert {^pid, 750, _, _, _, _, _, _, _} = Workers.lookup(pid)
      assert OOM.set_priority(pid, :protected) == :ok
      assert {^pid, :protected, _, _, _, _, _, _, _} = Workers.lookup(pid)
    end

    test "takes the caller's own" do
      in_process(fn ->
        assert OOM.set_priority(self(), 3) == :ok
        assert {_, 3, _, _, _, _, _, _, _} = Workers.lookup(self())
      end)
    end

    test "refuses a bad priority" do
      for bad <- [-1, 1001, :lowest, [max_heap_size: 1]] do
        message = @expected <> inspect(bad)
        assert_raise ArgumentError, message, fn -> OOM.set_priority(self(), bad) end
      end
    end

    test "refuses a dead process" do
      {pid, ref} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^ref, _, _, _}, 5_000
      message = "expected a live process of this node, got: #{inspect(pid)}"
      assert_raise ArgumentError, message, fn -> OOM.set_priority(pid, :low) end
      assert Workers.lookup(pid) == nil
    end

    test "refuses a process of another node" do
      pid = remote_pid()
      assert node(pid) == :other@nowhere
      message = "expected a live process of this node, got: #{inspect(pid)}"
      assert_raise ArgumentError, message, fn -> OOM.set_priority(pid, :low) end
    end
  end

  describe "child_spec/2" do
    test "is Supervisor.child_spec/2, with another start" do
      for child <- [
            Agent,
            {Agent, fn -> 0 end},
            %{id: :a, start: {Agent, :start_link, [fn -> 0 end]}},
            %{id: :a, start: {Agent, :start_link, []}, type: :supervisor, modules: :dynamic}
          ],
          options <- [[], [id: :b], [restart: :transient, shutdown: 1]] do
        plain = Supervisor.child_spec(child, options)
        ours = OOM.child_spec(child, options)
        assert Map.drop(ours, [:start, :modules]) == Map.drop(plain, [:start, :modules])
        # The default is spelt out, because the start no longer tells the default.
        assert ours.modules == Map.get(plain, :modules, [Agent])
        assert OOM.Child.Spec.unwrap(ours).start == plain.start
      end
    end

    test "refuses a wrong option of ours" do
      for {options, message} <- [
            {[priority: -1], @expected <> "-1"},
            {[max_heap_size: :all],
             "expected :max_heap_size to be bytes, {:percent_of_limit, p} with 0 < p <= 100, :infinity, " <>
               "or one of these as %{size: size, include_shared_binaries: boolean}, got: :all"},
            {[backoff: 5],
             "expected :backoff to be [initial_ms: i, max_ms: m] with 0 < i <= m, got: 5"}
          ] do
        assert_raise ArgumentError, message, fn -> OOM.child_spec(Agent, options) end
      end
    end

    test "refuses an unknown option as Supervisor.child_spec/2 does" do
      assert_raise ArgumentError, ~r/unknown key :prio/, fn ->
        OOM.child_spec(Agent, prio: :low)
      end
    end

    test "twice: the inner options win" do
      spec = Agent |> OOM.child_spec(priority: :low) |> OOM.child_spec(priority: :high, id: :b)
      assert %{id: :b, start: {OOM.Child, :start_link, [_, :b, options]}} = spec
      assert options[:priority] == :low
    end
  end

  test "level/0 is one of four" do
    assert OOM.level() in [:normal, :elevated, :high, :critical]
  end

  describe "admit?/1" do
    test "lets :high in, always" do
      assert OOM.admit?(:high)
    end

    test "refuses another class" do
      for bad <- [:lowest, nil, 1, "low", :protected] do
        message = "expected class to be :low, :normal or :high, got: #{inspect(bad)}"
        assert_raise ArgumentError, message, fn -> OOM.admit?(bad) end
      end
    end
  end

  describe "snapshot/0" do
    test "tells this machine's memory" do
      snapshot = OOM.snapshot()
      assert %Snapshot{source: source, limit_bytes: limit} = snapshot
      assert source not in [nil, :none]
      assert limit > 0
      assert snapshot.working_set_bytes in 1..limit
      assert snapshot.headroom_bytes == limit - snapshot.working_set_bytes
      assert snapshot.rss_bytes > 10_000_000
      assert snapshot.samples >= 1
      assert snapshot.level in [:normal, :elevated, :high, :critical]
    end

    test "has watermarks in order, within the limit" do
      snapshot = OOM.snapshot()
      assert snapshot.limit_bytes > snapshot.elevated_headroom_bytes
      assert snapshot.elevated_headroom_bytes > snapshot.high_headroom_bytes
      # By bytes, high begins with critical; before that, by the time left.
      assert snapshot.high_headroom_bytes >= snapshot.critical_headroom_bytes
      assert snapshot.critical_headroom_bytes > 0
    end

    test "names the file the limit was read from" do
      snapshot = OOM.snapshot()
      assert snapshot.file == nil or File.exists?(snapshot.file)
    end

    test "has unknown figures as nil, known ones as numbers" do
      for {field, value} <- Map.from_struct(OOM.snapshot()),
          field not in [:level, :source, :file, :cgroup, :ledger],
          do: assert(value == nil or is_number(value), "#{field}: #{inspect(value)}")
    end

    test "is sampled again and again" do
      before = OOM.snapshot().samples
      assert eventually(fn -> OOM.snapshot().samples > before end)
    end
  end

  # A process of the test's own, with failures that are the test's.
  defp in_process(fun), do: fun |> Task.async() |> Task.await()

  defp cap do
    {:garbage_collection, info} = Process.info(self(), :garbage_collection)
    info[:max_heap_size]
  end

  defp remote_pid do
    node = "other@nowhere"

    <<131, 88, 119, byte_size(node), node::binary, 42::32, 0::32, 1::32>>
    |> :erlang.binary_to_term()
  end
end
