defmodule OOM.Holds.Queue do
  @moduledoc false
  # The order of returns, without a look at all holds: two private tables of OOM.Holds, rebuilt from the
  # holds at its start.
  #
  # Waiting holds are sorted by size, in classes of a factor of two, and within a class by due time. In a
  # class that fits, the first hold has been due longest. In a class that does not fit, no hold is looked
  # at. Only a class that fits in part is searched hold by hold: @looks holds each time, and the search goes
  # on behind the cursor the next time.

  import Bitwise

  alias OOM.Hold

  @looks 16

  @enforce_keys [:entries, :keys, :held]
  defstruct [:entries, :keys, :held, :cursor]

  @typep kind :: non_neg_integer() | :overdue | :stable
  @type t :: %__MODULE__{
          # {{kind(), at_ms, version}, key, due_ms, bytes}, ordered
          entries: :ets.tid(),
          # {key, [{kind(), at_ms, version}], held?}
          keys: :ets.tid(),
          # the number of holds that are down, for readers in any process
          held: :counters.counters_ref(),
          # where the next search goes on
          cursor: {kind(), integer(), integer()} | nil
        }

  @spec new() :: t()
  def new do
    %__MODULE__{
      entries: :ets.new(__MODULE__, [:ordered_set, :private]),
      keys: :ets.new(__MODULE__, [:set, :private]),
      held: :counters.new(1, [])
    }
  end

  @doc "Puts a hold into the queue, in place of its earlier state."
  @spec put(t(), Hold.t(), pos_integer()) :: :ok
  def put(queue, %Hold{} = hold, stable_ms) do
    key = Hold.key(hold)
    delete(queue, key)
    places = for {kind, at_ms} <- places(hold, stable_ms), do: {kind, at_ms, hold.version}
    for place <- places, do: :ets.insert(queue.entries, {place, key, hold.due_ms, hold.bytes})
    :ets.insert(queue.keys, {key, places, Hold.held?(hold)})
    if Hold.held?(hold), do: :counters.add(queue.held, 1, 1)
    :ok
  end

  @spec delete(t(), Hold.key()) :: :ok
  def delete(queue, key) do
    with [{_, places, held?}] <- :ets.take(queue.keys, key) do
      for place <- places, do: :ets.delete(queue.entries, place)
      if held?, do: :counters.sub(queue.held, 1, 1)
    end

    :ok
  end

  # A hold due for as long as its longest backoff comes back whatever its size: the child may not grow as
  # large again, and a child too large for any room would otherwise be gone for good.
  defp places(%Hold{state: :held, due_ms: due} = hold, _stable_ms),
    do: [{class(hold.bytes), due}, {:overdue, due + hold.backoff[:max_ms]}]

  defp places(%Hold{state: :running, released_ms: released}, stable_ms),
    do: [{:stable, released + stable_ms}]

  defp places(_hold, _stable_ms), do: []

  # Class n is for sizes of at least 2^(n-1) and less than 2^n.
  defp class(0), do: 0
  defp class(bytes), do: 1 + class(bytes >>> 1)

  @doc """
  Returns the key of the next hold to come back, or `nil`, and the queue. Of the due holds that fit into
  `room_bytes`, the hold due longest is next. With `nil` room, no limit is known and all holds fit.
  `overdue?` also admits a hold without room that has waited too long.
  """
  @spec next(t(), integer(), integer() | nil, boolean()) :: {Hold.key() | nil, t()}
  def next(queue, now_ms, room_bytes, overdue?) do
    {found, queue} = walk(:ets.first(queue.entries), queue, now_ms, room_bytes, [])

    overdue = if overdue?, do: front(queue, :overdue, now_ms), else: []

    case Enum.min_by(overdue ++ found, &elem(&1, 0), fn -> nil end) do
      nil -> {nil, queue}
      {_due_ms, key} -> {key, queue}
    end
  end

  # From the first hold of a class to the first hold of the next class.
  defp walk({class, _, _}, queue, now_ms, room, found) when is_integer(class) do
    next = :ets.next(queue.entries, {class, [], []})

    cond do
      fits?((1 <<< class) - 1, room) ->
        walk(next, queue, now_ms, room, front(queue, class, now_ms) ++ found)

      fits?(1 <<< class >>> 1, room) ->
        {part, queue} = look(queue, class, now_ms, room)
        {part ++ found, queue}

      true ->
        {found, queue}
    end
  end

  defp walk(_other_or_end, queue, _now_ms, _room, found), do: {found, queue}

  defp fits?(_bytes, nil), do: true
  defp fits?(bytes, room), do: bytes <= room

  # In term order, atoms are larger than numbers, and `[]` is larger than any element of a place.
  defp front(queue, kind, now_ms) do
    case :ets.next(queue.entries, {kind, -1 <<< 63, -1 <<< 63}) do
      {^kind, at_ms, _} = place when at_ms <= now_ms ->
        [{_, key, due_ms, _}] = :ets.lookup(queue.entries, place)
        [{due_ms, key}]

      _ ->
        []
    end
  end

  defp look(queue, class, now_ms, room) do
    from =
      case queue.cursor do
        {^class, _, _} = cursor -> cursor
        _ -> {class, -1 <<< 63, -1 <<< 63}
      end

    look(:ets.next(queue.entries, from), queue, class, now_ms, room, @looks)
  end

  # After @looks holds the search stops, and the next call goes on behind the cursor.
  defp look({class, at_ms, _} = place, queue, class, now_ms, room, looks)
       when at_ms <= now_ms and looks > 0 do
    [{_, key, due_ms, bytes}] = :ets.lookup(queue.entries, place)

    if bytes <= room,
      do: {[{due_ms, key}], %{queue | cursor: nil}},
      else:
        look(
          :ets.next(queue.entries, place),
          %{queue | cursor: place},
          class,
          now_ms,
          room,
          looks - 1
        )
  end

  defp look(_place, queue, _class, _now_ms, _room, 0), do: {[], queue}
  # The class is searched through: the next search starts at the front.
  defp look(_other, queue, _class, _now_ms, _room, _looks), do: {[], %{queue | cursor: nil}}

  @doc "Returns the key of a running hold whose child has lived for `stable_ms`; `nil` for none."
  @spec stable(t(), integer()) :: Hold.key() | nil
  def stable(queue, now_ms) do
    case first_of(queue, :stable) do
      {_, at_ms, _} = place when at_ms <= now_ms -> :ets.lookup_element(queue.entries, place, 2)
      _ -> nil
    end
  end

  @doc "Returns the monotonic time in ms at which the next hold is due or stable; `nil` for none."
  @spec next_ms(t()) :: integer() | nil
  def next_ms(queue) do
    [earliest(:ets.first(queue.entries), queue, nil), at(first_of(queue, :stable))]
    |> Enum.reject(&is_nil/1)
    |> Enum.min(fn -> nil end)
  end

  defp earliest({class, at_ms, _}, queue, least) when is_integer(class),
    do: earliest(:ets.next(queue.entries, {class, [], []}), queue, min(at_ms, least || at_ms))

  defp earliest(_other_or_end, _queue, least), do: least

  defp first_of(queue, kind) do
    case :ets.next(queue.entries, {kind, -1 <<< 63, -1 <<< 63}) do
      {^kind, _, _} = place -> place
      _ -> nil
    end
  end

  defp at(nil), do: nil
  defp at({_, at_ms, _}), do: at_ms
end
