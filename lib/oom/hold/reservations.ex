defmodule OOM.Holds.Reservations do
  @moduledoc false
  # The room for returning children, as pure state. A child that returns grows again, and needs time for
  # that. Until the growth has settled, the child's size at the kill is reserved.
  #
  # A single target stands for all reservations: the working set expected once all returned children have
  # their size again. Growth of the working set since then is no longer reserved, whoever has grown. Growth
  # of other workers therefore shrinks a reservation too, but by no more than it takes from the headroom,
  # from which the room is counted anew each time.

  alias OOM.{Hold, Snapshot}

  # The time for which present growth must leave room: longer than a return takes to reach its size at tens
  # of MB/s, and longer than the growth figure takes to show a return.
  @ahead_s 5
  # A return has settled after this time without growth, at the latest after @longest_ms: a working set that
  # goes up and down with the collections must not keep children down.
  @settle_ms 1_000
  @longest_ms 10_000
  # Twice the floor, so that a return that grows more than the last time does not make the guard act.
  @floors 2

  defstruct entries: [], target_bytes: nil

  @typep entry ::
           {Hold.key(), until_ms :: integer(), last_ms :: integer(), bytes :: non_neg_integer()}
  @type t :: %__MODULE__{entries: [entry()], target_bytes: integer() | nil}

  @spec new() :: t()
  def new, do: %__MODULE__{}

  @doc "Reserves `bytes` for a child that comes back now."
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

  @doc "Drops the reservation of a child that was killed again or is gone."
  @spec drop(t(), Hold.key()) :: t()
  def drop(reserved, key), do: keep(reserved, &(elem(&1, 0) != key))

  @doc "Returns the reservations without the settled returns. While memory grows, no return settles early."
  @spec current(t(), Snapshot.t(), integer()) :: t()
  def current(reserved, snapshot, now_ms) do
    reserved = if grows?(snapshot), do: longer(reserved, now_ms), else: reserved
    keep(reserved, fn {_key, until, _last, _bytes} -> until > now_ms end)
  end

  defp longer(reserved, now_ms) do
    entries =
      for {key, until, last, bytes} <- reserved.entries do
        # A reservation that is over stays over.
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

  @doc "Returns the bytes that recent returns are still to take."
  @spec reserved_bytes(t(), Snapshot.t()) :: non_neg_integer()
  def reserved_bytes(%__MODULE__{} = reserved, %Snapshot{working_set_bytes: used}) do
    all = reserved.entries |> Enum.map(&elem(&1, 3)) |> Enum.sum()

    if reserved.target_bytes == nil or used == nil,
      do: all,
      else: min(all, max(reserved.target_bytes - used, 0))
  end

  @doc """
  Returns the bytes a returning child may take: the headroom and the memory free inside the VM, less
  twice the floor, the reservations, and the growth expected meanwhile. `nil` without a known limit.
  """
  @spec room_bytes(t(), Snapshot.t()) :: integer() | nil
  def room_bytes(_reserved, %Snapshot{headroom_bytes: nil}), do: nil

  def room_bytes(reserved, %Snapshot{} = snapshot) do
    snapshot.headroom_bytes + (snapshot.slack_bytes || 0) - floors(snapshot) -
      reserved_bytes(reserved, snapshot) - ahead_bytes(snapshot)
  end

  @doc "Tells whether `bytes` can never fit: more than the limit less twice the floor."
  @spec never?(non_neg_integer(), Snapshot.t()) :: boolean()
  def never?(_bytes, %Snapshot{limit_bytes: nil}), do: false
  def never?(bytes, snapshot), do: bytes > snapshot.limit_bytes - floors(snapshot)

  @doc "Tells whether memory grows too fast for a return: by more than the floor within @ahead_s."
  @spec grows?(Snapshot.t()) :: boolean()
  def grows?(snapshot), do: ahead_bytes(snapshot) > floor_bytes(snapshot)

  defp ahead_bytes(%Snapshot{growth_bytes_per_s: nil}), do: 0
  defp ahead_bytes(%Snapshot{growth_bytes_per_s: growth}), do: max(growth, 0) * @ahead_s

  defp floors(snapshot), do: @floors * floor_bytes(snapshot)

  # The headroom at which the guard acts at once.
  defp floor_bytes(%Snapshot{critical_headroom_bytes: bytes}), do: bytes || 0
end
