defmodule OOM.Holds.QueueTest do
  use ExUnit.Case, async: true

  alias OOM.Hold
  alias OOM.Holds.Queue

  @max_ms 1_000
  @stable_ms 500

  describe "next/4" do
    test "is the child due longest, whatever the sizes" do
      queue = queue([held(:a, 30, 1), held(:b, 10, 1_000), held(:c, 20, 7)])
      assert next(queue, 100, 1_000) == :b
    end

    test "none before the child is due" do
      assert next(queue([held(:a, 101, 1)]), 100, 1_000) == nil
      assert next(queue([held(:a, 100, 1)]), 100, 1_000) == :a
    end

    test "passes by children that do not fit" do
      queue = queue([held(:large, 10, 1_001), held(:fits, 20, 1_000)])
      assert next(queue, 100, 1_000) == :fits
      assert next(queue, 100, 999) == nil
    end

    test "a child of unknown size fits unless there is less than no room" do
      queue = queue([held(:a, 10, 0)])
      assert next(queue, 100, 0) == :a
      assert next(queue, 100, -1) == nil
    end

    test "takes a child that fits nowhere all the same, after its longest backoff, if it may" do
      queue = queue([held(:a, 10, 1_001)])
      assert next(queue, 1_009, 1_000) == nil
      assert next(queue, 1_010, 1_000) == :a
      assert next(queue, 1_010, 1_000, false) == nil
    end

    test "everything fits where no limit is known" do
      assert next(queue([held(:a, 10, 1_000_000_000_000)]), 100, nil) == :a
    end

    test "passes by children on their way, given up or running" do
      released = Hold.released(held(:b, 10, 1), 20)
      releasing = Hold.releasing(held(:a, 10, 1), self())
      given_up = %{held(:c, nil, 1) | state: :given_up}
      assert next(queue([released, releasing, given_up]), 100, 1_000) == nil
    end

    test "none of none" do
      assert next(Queue.new(), 100, nil) == nil
    end

    test "finds a small child behind many that nearly fit, after some more looks" do
      large = for n <- 1..100, do: held({:large, n}, n, 1_000)
      queue = queue([held(:small, 101, 600) | large])

      {found, _} =
        Enum.reduce_while(1..100, {nil, queue}, fn looks, {nil, queue} ->
          case Queue.next(queue, 200, 700, false) do
            {nil, queue} -> {:cont, {nil, queue}}
            {{_, id}, queue} -> {:halt, {{id, looks}, queue}}
          end
        end)

      assert {:small, looks} = found
      assert looks in 2..7
    end

    test "finds the same as a look at all children" do
      seed = :rand.uniform(1_000_000_000)
      :rand.seed(:exsss, seed)

      for _ <- 1..300 do
        # Sizes far apart, so no class fits in part.
        holds =
          for id <- 1..:rand.uniform(30),
              do: held(id, :rand.uniform(300), Integer.pow(4, :rand.uniform(9)) - 1)

        room = Integer.pow(4, :rand.uniform(10)) - 1
        now = 200

        fits = Enum.filter(holds, &(&1.due_ms <= now and &1.bytes <= room))
        least = fits |> Enum.map(& &1.due_ms) |> Enum.min(fn -> nil end)
        found = next(queue(holds), now, room)
        due = if found, do: Enum.find(holds, &(&1.id == found)).due_ms
        assert due == least, "seed #{seed}"
      end
    end
  end

  test "put/3 takes the place of the earlier hold" do
    queue = queue([held(:a, 10, 1)])
    Queue.put(queue, held(:a, 500, 1), @stable_ms)
    assert next(queue, 100, nil) == nil
    assert next(queue, 500, nil) == :a
    Queue.delete(queue, {self(), :a})
    assert next(queue, 5_000, nil) == nil
    assert Queue.next_ms(queue) == nil
    assert :ets.info(queue.entries, :size) == 0
  end

  test "counts the held children" do
    queue = queue([held(:a, 10, 1), %{held(:b, nil, 1) | state: :given_up}])
    assert :counters.get(queue.held, 1) == 2
    Queue.put(queue, Hold.releasing(held(:a, 10, 1), self()), @stable_ms)
    assert :counters.get(queue.held, 1) == 2
    Queue.put(queue, Hold.released(held(:a, 10, 1), 20), @stable_ms)
    assert :counters.get(queue.held, 1) == 1
    Queue.delete(queue, {self(), :b})
    assert :counters.get(queue.held, 1) == 0
  end

  test "stable/2 tells children that have run for the time" do
    queue = queue([Hold.released(held(:a, 10, 1), 1_000), held(:b, 10, 1)])
    assert Queue.stable(queue, 1_499) == nil
    assert Queue.stable(queue, 1_500) == {self(), :a}
  end

  test "next_ms/1 is when there is something to do" do
    assert Queue.next_ms(queue([held(:a, 30, 5_000), held(:b, 40, 1)])) == 30
    assert Queue.next_ms(queue([Hold.released(held(:a, 10, 1), 1_000)])) == 1_500
    assert Queue.next_ms(queue([%{held(:b, nil, 1) | state: :given_up}])) == nil
    assert Queue.next_ms(Queue.new()) == nil
  end

  defp queue(holds) do
    queue = Queue.new()
    for hold <- holds, do: Queue.put(queue, hold, @stable_ms)
    queue
  end

  defp next(queue, now_ms, room, overdue? \\ true) do
    case Queue.next(queue, now_ms, room, overdue?) do
      {{_supervisor, id}, _} -> id
      {nil, _} -> nil
    end
  end

  defp held(id, due_ms, bytes) do
    %Hold{
      supervisor: self(),
      id: id,
      ids: [id],
      backoff: [initial_ms: 1, max_ms: @max_ms],
      due_ms: due_ms,
      bytes: bytes,
      kills: 1,
      version: System.unique_integer()
    }
  end
end
