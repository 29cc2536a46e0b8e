defmodule OOM.Holds.Bookings do
  @moduledoc false
  # The room there is for those that come back. A returned worker needs time to grow back to the
  # size it was killed at; until then its bytes are booked. One that takes longer is seen coming by
  # the watcher. As pure state; one return every 10 ms bounds how many there are.

  alias OOM.Snapshot

  @booking_ms 1_000

  @type t :: [{until_ms :: integer(), bytes :: non_neg_integer()}]

  @spec add(t(), non_neg_integer(), integer()) :: t()
  def add(bookings, bytes, now_ms), do: [{now_ms + @booking_ms, bytes} | bookings]

  @doc "Without those that are over."
  @spec current(t(), integer()) :: t()
  def current(bookings, now_ms), do: Enum.filter(bookings, fn {until, _} -> until > now_ms end)

  @doc """
  Down to the first watermark, with what is free inside the VM, and less what others that have just
  come back will need. `nil` where no limit is known.
  """
  @spec room_bytes(t(), Snapshot.t()) :: integer() | nil
  def room_bytes(_bookings, %Snapshot{headroom_bytes: nil}), do: nil

  def room_bytes(bookings, %Snapshot{} = snapshot) do
    booked = bookings |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    slack = snapshot.slack_bytes || 0
    snapshot.headroom_bytes + slack - snapshot.elevated_headroom_bytes - booked
  end
end
