defmodule OOM.Holds.ReservationsTest do
  use ExUnit.Case, async: true

  alias OOM.Holds.Reservations
  alias OOM.Snapshot

  @snapshot %Snapshot{
    limit_bytes: 10_000,
    working_set_bytes: 9_000,
    headroom_bytes: 1_000,
    critical_headroom_bytes: 100
  }

  describe "the room" do
    test "is the headroom down to twice the floor, whatever the level" do
      assert room([], @snapshot) == 800

      for level <- [:normal, :elevated, :high, :critical],
          do: assert(room([], %{@snapshot | level: level}) == 800)

      assert room([], %{@snapshot | headroom_bytes: 150}) == -50
    end

    test "and what is free inside the VM" do
      assert room([], %{@snapshot | slack_bytes: 50}) == 850
    end

    test "less the present growth within five seconds" do
      assert room([], %{@snapshot | growth_bytes_per_s: 20}) == 700
      assert room([], %{@snapshot | growth_bytes_per_s: -20}) == 800
    end

    test "less the later need of children that have just come back" do
      assert room([{:a, 300, 0}, {:b, 100, 500}], @snapshot) == 400
    end

    test "is unknown without a limit" do
      assert room([{:a, 10, 1}], %Snapshot{}) == nil
    end
  end

  describe "a reservation" do
    test "shrinks by the growth of the working set since, and no room is lost or won by that" do
      reserved = reserve([{:a, 300, 0}, {:b, 100, 0}], @snapshot)

      for grown <- [0, 100, 399, 400, 500] do
        snapshot = grown(@snapshot, grown)
        assert Reservations.reserved_bytes(reserved, snapshot) == max(400 - grown, 0)
        assert Reservations.room_bytes(reserved, snapshot) == 800 - max(400, grown)
      end
    end

    test "does not grow where the working set shrinks" do
      reserved = reserve([{:a, 300, 0}], @snapshot)
      assert Reservations.reserved_bytes(reserved, grown(@snapshot, -200)) == 300
    end

    test "counts on from the size the reservation before will have" do
      reserved = Reservations.add(Reservations.new(), {self(), :a}, 300, @snapshot, 0)
      reserved = Reservations.add(reserved, {self(), :b}, 100, grown(@snapshot, 50), 10)
      assert Reservations.reserved_bytes(reserved, grown(@snapshot, 50)) == 350
      assert Reservations.reserved_bytes(reserved, grown(@snapshot, 350)) == 50
    end

    test "is complete where usage is unknown" do
      unknown = %{@snapshot | working_set_bytes: nil}
      assert [{:a, 300, 0}] |> reserve(unknown) |> Reservations.reserved_bytes(unknown) == 300
    end

    test "is over after a second in which nothing grows" do
      reserved = reserve([{:a, 300, 0}, {:b, 100, 500}], @snapshot)
      assert reserved_at(reserved, @snapshot, 999) == 400
      assert reserved_at(reserved, @snapshot, 1_000) == 100
      assert Reservations.current(reserved, @snapshot, 1_500) == Reservations.new()
      assert Reservations.none?(Reservations.new())
      refute Reservations.none?(reserved)
    end

    test "lasts while memory grows, but not for ever" do
      growing = %{@snapshot | growth_bytes_per_s: 21}
      assert Reservations.grows?(growing)
      refute Reservations.grows?(%{@snapshot | growth_bytes_per_s: 20})
      reserved = reserve([{:a, 300, 0}], @snapshot)

      # As in use: a look each 100 ms.
      at =
        Enum.reduce_while(Stream.iterate(100, &(&1 + 100)), reserved, fn now, reserved ->
          case Reservations.current(reserved, growing, now) do
            %{entries: []} -> {:halt, now}
            reserved -> {:cont, reserved}
          end
        end)

      assert at == 10_000
    end

    test "is given back by a child killed again" do
      reserved = reserve([{:a, 300, 0}, {:b, 100, 0}], @snapshot)
      reserved = Reservations.drop(reserved, {self(), :a})
      assert Reservations.reserved_bytes(reserved, @snapshot) == 100
      assert Reservations.drop(reserved, {self(), :b}) == Reservations.new()
    end
  end

  test "more than the limit less twice the floor fits beside nobody" do
    refute Reservations.never?(9_800, @snapshot)
    assert Reservations.never?(9_801, @snapshot)
    refute Reservations.never?(1_000_000, %Snapshot{})
  end

  defp room(returned, snapshot),
    do: returned |> reserve(snapshot) |> Reservations.room_bytes(snapshot)

  defp reserve(returned, snapshot) do
    for {id, bytes, now_ms} <- returned, reduce: Reservations.new() do
      reserved -> Reservations.add(reserved, {self(), id}, bytes, snapshot, now_ms)
    end
  end

  defp reserved_at(reserved, snapshot, now_ms),
    do:
      reserved |> Reservations.current(snapshot, now_ms) |> Reservations.reserved_bytes(snapshot)

  defp grown(snapshot, bytes) do
    %{
      snapshot
      | working_set_bytes: snapshot.working_set_bytes + bytes,
        headroom_bytes: snapshot.headroom_bytes - bytes
    }
  end
end
