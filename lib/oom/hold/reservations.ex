defmodule OOM.Holds.Reservations do
  @moduledoc false
  # The room there is for those that come back, as pure state. What returns grows again, and needs
  # time for that: until it has settled, the size it was killed at is reserved for it.
  #
  # One target stands for all reservations: the working set there will be once all that came back have
  # their size again. What the working set has grown since is no longer reserved; nobody has to know
  # who grew. So others' growth shrinks a reservation, too, but by no more than it takes of the
  # headroom, from which the room is counted anew each time.

  alias OOM.{Hold, Snapshot}

  # The present growth has to leave room for so long. It is longer than a return takes to reach its
  # size at tens of MB/s, and than the figure of the growth takes to show what a return does.
  @ahead_s 5
  # One that returned is settled when nothing has grown for so long, at the latest after @longest_ms: a
  # node that breathes with its collections must not keep others down.
  @settle_ms 1_000
  @longest_ms 10_000
  # The floor itself, and once more the same, so that a return that grows more than it did the last time
  # does not bring the guard to act.
  @floors 2

  defstruct entries: [], target_bytes: nil

  @typep entry ::
           {Hold.key(), until_ms :: integer(), last_ms :: integer(), bytes :: non_neg_integer()}
  @type t :: %__MODULE__{entries: [entry()], target_bytes: integer() | nil}

  @spec new() :: t()
  def new, do: %__MODULE__{}

  @doc "One comes back now that held so much."
  @spec add(t(), Hold.key(), non_neg_integer(), Snapshot.t(), integer()) :: t()
  def add(%__MODULE__{} = reserved, key, bytes, snapshot, now_ms) do
    entry = {key, now_ms + @settle_ms, now_ms + @longest_ms, bytes}

    %{
      reserved
      | entries: [entry | reserved.entries],
        target_bytes: target(reserved, bytes, snapshot)
    }
  end

  defp target(_reserved, _bytes, %Snapshot{working_set_bytes: nil}), do: nil

  defp target(reserved, bytes, %Snapshot{working_set_bytes: used}),
    do: max(reserved.target_bytes || used, used) + bytes

  @doc "It was killed again, or is gone: it needs nothing any more."
  @spec drop(t(), Hold.key()) :: t()
  def drop(reserved, key), do: keep(reserved, &(elem(&1, 0) != key))

  @doc "Without those that have settled."
  @spec current(t(), Snapshot.t(), integer()) :: t()
  def current(reserved, snapshot, now_ms) do
    reserved = if grows?(snapshot), do: longer(reserved, now_ms), else: reserved
    keep(reserved, fn {_key, until, _last, _bytes} -> until > now_ms end)
  end

  defp longer(reserved, now_ms) do
    entries =
      for {key, until, last, bytes} <- reserved.entries do
        # One that is over stays so.
        until = if until > now_ms, do: min(now_ms + @settle_ms, last), else: until
        {key, until, last, bytes}
      end

    %{reserved | entries: entries}
  end

  defp keep(reserved, keep?) do
    case Enum.filter(reserved.entries, keep?) do
      [] -> new()
      entries -> %{reserved | entries: entries}
    end
  end

  @spec none?(t()) :: boolean()
  def none?(reserved), do: reserved.entries == []

  @doc "What those that have just come back are still to take."
  @spec reserved_bytes(t(), Snapshot.t()) :: non_neg_integer()
  def reserved_bytes(%__MODULE__{} = reserved, %Snapshot{working_set_bytes: used}) do
    all = reserved.entries |> Enum.map(&elem(&1, 3)) |> Enum.sum()

    if reserved.target_bytes == nil or used == nil,
      do: all,
      else: min(all, max(reserved.target_bytes - used, 0))
  end

  @doc """
  What one that comes back may take: the headroom, and what is free inside the VM, down to twice the
  floor; less what is reserved, and what the present growth takes meanwhile. `nil` where no limit is
  known.
  """
  @spec room_bytes(t(), Snapshot.t()) :: integer() | nil
  def room_bytes(_reserved, %Snapshot{headroom_bytes: nil}), do: nil

  def room_bytes(reserved, %Snapshot{} = snapshot) do
    snapshot.headroom_bytes + (snapshot.slack_bytes || 0) - floors(snapshot) -
      reserved_bytes(reserved, snapshot) - ahead_bytes(snapshot)
  end

  @doc "Whether so much fits beside nobody: it is more than there is between nothing and the floor."
  @spec never?(non_neg_integer(), Snapshot.t()) :: boolean()
  def never?(_bytes, %Snapshot{limit_bytes: nil}), do: false
  def never?(bytes, snapshot), do: bytes > snapshot.limit_bytes - floors(snapshot)

  @doc "Whether memory grows so fast that it is worth to wait: by the floor within the time that is looked ahead."
  @spec grows?(Snapshot.t()) :: boolean()
  def grows?(snapshot), do: ahead_bytes(snapshot) > floor_bytes(snapshot)

  defp ahead_bytes(%Snapshot{growth_bytes_per_s: nil}), do: 0
  defp ahead_bytes(%Snapshot{growth_bytes_per_s: growth}), do: max(growth, 0) * @ahead_s

  defp floors(snapshot), do: @floors * floor_bytes(snapshot)

  # Where the guard acts at once.
  defp floor_bytes(%Snapshot{critical_headroom_bytes: bytes}), do: bytes || 0
end
