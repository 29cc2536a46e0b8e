defmodule OOM.Holds.BookingsTest do
  use ExUnit.Case, async: true

  alias OOM.Holds.Bookings
  alias OOM.Snapshot

  @snapshot %Snapshot{headroom_bytes: 1_000, elevated_headroom_bytes: 300}

  test "there is room down to the first watermark" do
    assert Bookings.room_bytes([], @snapshot) == 700
    assert Bookings.room_bytes([], %{@snapshot | headroom_bytes: 200}) == -100
  end

  test "and what is free inside the VM" do
    assert Bookings.room_bytes([], %{@snapshot | slack_bytes: 50}) == 750
  end

  test "less what others will need that have just come back" do
    bookings = [] |> Bookings.add(300, 0) |> Bookings.add(100, 500)
    assert Bookings.room_bytes(bookings, @snapshot) == 300
  end

  test "for a second each" do
    bookings = [] |> Bookings.add(300, 0) |> Bookings.add(100, 500)
    assert bookings |> Bookings.current(999) |> Bookings.room_bytes(@snapshot) == 300
    assert bookings |> Bookings.current(1_000) |> Bookings.room_bytes(@snapshot) == 600
    assert Bookings.current(bookings, 1_500) == []
  end

  test "nothing is known without a limit" do
    assert Bookings.room_bytes([{10, 1}], %Snapshot{}) == nil
  end
end
