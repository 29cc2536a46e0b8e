defmodule OOM.Plan do
  @moduledoc false
  # Who dies first: an ordered set of `{rank, -bytes, pid}`. It is kept current in calm time by the
  # probes, so that the reaction reads the next victim off the front, whatever the number of
  # workers is.

  alias OOM.{Tables, Units, Workers}

  @type figure :: {OOM.Priority.rank(), non_neg_integer()}
  @type victim :: %{
          pid: pid(),
          rank: 0..1000,
          bytes: non_neg_integer(),
          state: Workers.state(),
          supervisor: pid() | nil,
          id: term()
        }

  @doc """
  Moves a worker, around the `update` of its row: the new key is there before the row says so, and
  the old one until after. A worker must not be missing even for a moment, or the guard takes one
  that is worth more.
  """
  @spec move(pid(), figure(), figure(), (... -> boolean())) :: :ok
  def move(pid, old, new, update) do
    put(pid, new)

    if update.() do
      if old != new, do: delete(pid, old)
      :ok
    else
      # It ended meanwhile, and its row is gone.
      delete(pid, new)
    end
  end

  @spec put(pid(), figure()) :: :ok
  def put(_pid, {:protected, _bytes}), do: :ok

  def put(pid, {rank, bytes}) do
    :ets.insert(__MODULE__, {{rank, -bytes, pid}})
    :ok
  end

  @spec delete(pid(), figure()) :: :ok
  def delete(pid, {rank, bytes}) do
    :ets.delete(__MODULE__, {rank, -bytes, pid})
    :ok
  end

  # More workers than this that might hold something, and they are taken to be worth it: to count
  # on would take longer than to kill them.
  @many 500

  @typedoc """
  What bounds a choice:

    * `:need_bytes` - what the victims must hold together
    * `:count` - how many at most
    * `:min_bytes` - what one must hold to be worth it; one that is known to hold less is left
      alone, and the next priority is looked at
    * `:fresh_ms` - a small figure older than this tells nothing of a worker that may have grown
    * `:unknown` - what to do, before that, about one whose figure is too old to know: `:take` it,
      or `:wait` for a fresh figure and pick nobody further
    * `:busy` - what to do about one that reads small and works hard: `:take` or `:spare` it
    * `:ceiling` - the highest rank that may be picked. While victims of one priority are on their
      way, it keeps the next priority out: no worker ends before one that is worth less
    * `:now_ms` - by which figures are old
    * `:growth_bytes_per_ms` - what one whose figure is old may have grown by
  """
  @type limits :: %{
          need_bytes: integer(),
          count: pos_integer(),
          min_bytes: pos_integer(),
          fresh_ms: pos_integer(),
          unknown: :take | :wait,
          busy: :take | :spare,
          ceiling: 0..1000,
          now_ms: integer(),
          growth_bytes_per_ms: non_neg_integer()
        }

  # Of a small worker, by others than the guard.
  @fresh_ms 100

  @doc "Whom the guard would pick to free so many bytes, at most `count`, for who acts beside it."
  @spec limits(integer(), pos_integer(), integer()) :: limits()
  def limits(need_bytes, count, now_ms) do
    %{
      need_bytes: need_bytes,
      count: count,
      min_bytes: Tables.config().min_victim_bytes,
      fresh_ms: @fresh_ms,
      unknown: :take,
      busy: :spare,
      ceiling: 1000,
      now_ms: now_ms,
      growth_bytes_per_ms: 0
    }
  end

  @doc """
  Victims of one priority that together hold `need_bytes`: of the lowest priority that has any, the
  largest first. And whether one was met whose figure is too old to know, and was taken or is waited
  for.
  """
  @spec pick(limits()) :: {[victim()], late? :: boolean()}
  def pick(%{need_bytes: need, count: count} = limits) when need > 0 and count > 0,
    do: walk(:ets.first(__MODULE__), Map.put(limits, :looks, count), [], false)

  def pick(_limits), do: {[], false}

  @doc """
  Whether all that may be killed, of whatever priority, hold `least_bytes` together. Those whose figures
  are too old may have taken all growth since, one of them or all together, but not each; and where such
  figures are waited for they are not killed now, and nobody else is for what they may hold. One that
  reads small and works hard may have taken all of it by itself: its figure is not believed.
  """
  @spec worth?(integer(), limits()) :: boolean()
  def worth?(least_bytes, limits) do
    limits = Map.put(limits, :looks, limits.count)
    worth?(:ets.first(__MODULE__), least_bytes, 0, @many, limits)
  end

  # `grown`: what those whose figures are too old may have taken together since.
  defp worth?(_key, least, grown, many, _limits) when least <= grown or many == 0, do: true
  defp worth?(:"$end_of_table", _least, _grown, _many, _limits), do: false

  defp worth?({rank, minus, pid} = key, least, grown, many, limits) do
    row = Workers.lookup(pid)

    case judge(key, row, limits) do
      :take when -minus >= limits.min_bytes ->
        worth?(:ets.next(__MODULE__, key), least + minus, grown, many - 1, limits)

      :take ->
        least = least + minus - grown_bytes(row, limits)
        worth?(:ets.next(__MODULE__, key), least, grown, many - 1, limits)

      :late when limits.unknown == :wait ->
        worth?(:ets.next(__MODULE__, key), least, grown, many - 1, limits)

      :late ->
        grown = max(grown, grown_bytes(row, limits))
        worth?(:ets.next(__MODULE__, key), least + minus, grown, many - 1, limits)

      :rest_is_small ->
        next = :ets.next(__MODULE__, {rank, [], []})
        worth?(next, least, grown, many, %{limits | looks: limits.count})

      :small ->
        next = :ets.next(__MODULE__, key)
        worth?(next, least, grown, many, %{limits | looks: limits.looks - 1})

      _obsolete ->
        worth?(:ets.next(__MODULE__, key), least, grown, many, limits)
    end
  end

  # Nobody has looked at it yet.
  defp grown_bytes({_, _, _, nil, _, _, _, _, _}, limits), do: limits.need_bytes

  defp grown_bytes({_, _, _, at_ms, _, _, _, _, _}, limits),
    do: limits.growth_bytes_per_ms * (limits.now_ms - at_ms)

  # More than this take too long to stop.
  @line 1_000

  @doc """
  The workers of the lowest priority that has a victim, or may have one, the largest first; whether
  each of them is one or not.
  """
  @spec next_in_line(limits()) :: [pid()]
  def next_in_line(limits) do
    case lowest(:ets.first(__MODULE__), Map.put(limits, :looks, limits.count)) do
      nil -> []
      rank -> line(:ets.next(__MODULE__, {rank - 1, [], []}), rank, @line)
    end
  end

  defp lowest(:"$end_of_table", _limits), do: nil

  defp lowest({rank, _, pid} = key, limits) do
    case judge(key, Workers.lookup(pid), limits) do
      found when found in [:take, :late] ->
        rank

      :rest_is_small ->
        lowest(:ets.next(__MODULE__, {rank, [], []}), %{limits | looks: limits.count})

      :small ->
        lowest(:ets.next(__MODULE__, key), %{limits | looks: limits.looks - 1})

      _obsolete ->
        lowest(:ets.next(__MODULE__, key), limits)
    end
  end

  defp line({rank, _, pid} = key, rank, count) when count > 0 do
    rest = line(:ets.next(__MODULE__, key), rank, count - 1)
    # The row decides: it may be protected by now.
    if Workers.rank(pid) == rank, do: [pid | rest], else: rest
  end

  defp line(_key, _rank, _count), do: []

  defp walk(:"$end_of_table", _limits, victims, late?), do: {Enum.reverse(victims), late?}

  defp walk({rank, _, _}, %{need_bytes: need, count: count, ceiling: ceiling}, victims, late?)
       when need <= 0 or count == 0 or rank > ceiling,
       do: {Enum.reverse(victims), late?}

  defp walk({rank, minus, pid} = key, limits, victims, late?) do
    row = Workers.lookup(pid)

    case allowed(judge(key, row, limits), row) do
      :late when limits.unknown == :wait ->
        {Enum.reverse(victims), true}

      found when found in [:take, :late] ->
        next = :ets.next(__MODULE__, key)
        left = %{limits | need_bytes: limits.need_bytes + minus, count: limits.count - 1}
        # None of a higher rank with these.
        walk(next, %{left | ceiling: rank}, [victim(row) | victims], late? or found == :late)

      :rest_is_small ->
        rest = :ets.next(__MODULE__, {rank, [], []})
        walk(rest, %{limits | looks: limits.count}, victims, late?)

      :small ->
        next = :ets.next(__MODULE__, key)
        walk(next, %{limits | looks: limits.looks - 1}, victims, late?)

      :changed ->
        walk(:ets.next(__MODULE__, key), limits, victims, late?)

      :gone ->
        next = :ets.next(__MODULE__, key)
        :ets.delete(__MODULE__, key)
        walk(next, limits, victims, late?)
    end
  end

  # One that would take a protected one along has a rank for it, but that may be late, or not be
  # known yet.
  defp allowed(found, {pid, _, _, _, _, supervisor, _, _, _}) when found in [:take, :late],
    do: if(Units.spared?(supervisor, pid), do: :changed, else: found)

  defp allowed(judgement, _row), do: judgement

  defp victim({pid, rank, bytes, _, state, supervisor, id, _, _}),
    do: %{pid: pid, rank: rank, bytes: bytes, state: state, supervisor: supervisor, id: id}

  # What a key of the plan and the row it stands for tell of a worker.
  defp judge(_key, nil, _limits), do: :gone

  # The rest of this priority is smaller still; after a look at some of them, on to the next. `[]`
  # is larger than any pid and any number.
  defp judge({_, minus, _}, _row, %{looks: 0, min_bytes: min}) when -minus < min,
    do: :rest_is_small

  defp judge({rank, minus, _}, {_, rank, bytes, sampled_ms, state, _, _, _, _}, limits)
       when bytes == -minus do
    cond do
      bytes >= limits.min_bytes -> :take
      state == :busy and limits.busy == :take -> :take
      state in [:fresh, :busy] and limits.now_ms - sampled_ms < limits.fresh_ms -> :small
      true -> :late
    end
  end

  # The row decides: this key is just being replaced, and the worker has another.
  defp judge(_key, _row, _limits), do: :changed

  @doc """
  Drops the keys that match no row. Writers that met leave one behind now and then; the full walk
  is only worth it when there are more keys than workers.
  """
  @spec sweep() :: :ok
  def sweep, do: sweep(:ets.first(__MODULE__))

  @spec size() :: non_neg_integer()
  def size, do: :ets.info(__MODULE__, :size)

  defp sweep(:"$end_of_table"), do: :ok

  defp sweep({rank, minus, pid} = key) do
    next = :ets.next(__MODULE__, key)

    case Workers.lookup(pid) do
      {_, ^rank, bytes, _, _, _, _, _, _} when bytes == -minus -> :ok
      _ -> :ets.delete(__MODULE__, key)
    end

    sweep(next)
  end
end
