defmodule OOM.Holds.Down do
  @moduledoc false
  # What a supervisor says of children that are down because of memory. The supervisor, or a process that acts for
  # the supervisor, writes into the table of holds and tells OOM.Holds.

  alias OOM.{Hold, Holds, Tables, Victims}
  alias OOM.Holds.{Alarm, Release, Store}

  @typedoc "What the strategy takes along, in start order, and whether each ran until now."
  @type unit :: [{id :: term(), ran? :: boolean()}]

  @doc """
  `pid` was killed, and those of the unit that ran are down with it. Others of the unit may be held
  already; they come back together. Called in the supervisor, or by whoever acts for it.

  Written into the table here and now, so that no crash of OOM.Holds can lose the hold.

  Options: `:backoff` and `:max_kills`, by default those of the configuration; `:return`, see
  `t:OOM.Hold.return/0`; `:killed?`, `false` for one that was not started at all.
  """
  @spec hold(pid(), term(), unit(), pid(), keyword()) :: :ok
  def hold(supervisor, id, unit, pid, options) do
    hold = stored(Tables.config(), supervisor, id, unit, pid, options)
    Holds.changed({supervisor, id})

    # The application ends meanwhile, and who ends it may have looked already.
    if hold == nil or Tables.stopping?() do
      return = Keyword.get(options, :return, :restart_child)
      ids = for {id, true} <- unit, do: id
      bare = %Hold{supervisor: supervisor, id: id, ids: ids, backoff: [], return: return}
      Release.all([hold || bare], 0)
    else
      :ok
    end
  end

  defp stored(nil, _supervisor, _id, _unit, _pid, _options), do: nil

  defp stored(config, supervisor, id, unit, pid, options) do
    others = absorb(supervisor, id, unit)
    bytes = Enum.reduce(others, Victims.bytes(pid), &(&1.bytes + &2))
    now = now()

    {old, hold} =
      Store.update({supervisor, id}, fn old ->
        old = if old && Hold.stable?(old, now, config.stable_ms), do: nil, else: old

        %{
          (old || %Hold{supervisor: supervisor, id: id, ids: [], backoff: []})
          | ids: ids(unit, List.wrap(old) ++ others),
            backoff: options[:backoff] || config.backoff,
            max_kills: options[:max_kills] || config.max_kills,
            return: Keyword.get(options, :return, :restart_child)
        }
        |> Hold.absorb(others)
        |> down(Keyword.get(options, :killed?, true), bytes, now)
      end)

    Alarm.clear(old, hold)
    hold
  rescue
    # The tables are gone by now.
    ArgumentError -> nil
  end

  defp down(hold, true, bytes, now), do: Hold.killed(hold, bytes, now, &:rand.uniform/0)
  defp down(hold, false, _bytes, now), do: Hold.turned_away(hold, now, &:rand.uniform/0)

  # The others of the same supervisor that share a child with the unit, which takes it over.
  defp absorb(_supervisor, _id, [_alone]), do: []

  defp absorb(supervisor, id, unit) do
    members = Enum.map(unit, &elem(&1, 0))

    for %Hold{} = other <- Store.all(supervisor),
        other.id != id and Hold.held?(other),
        Enum.any?(other.ids, &(&1 in members)),
        do: without(Hold.key(other), members)
  end

  # As it was before.
  defp without(key, ids) do
    {old, new} = Store.update(key, &(&1 && Hold.without(&1, ids)))
    if new == nil, do: Alarm.clear(old)
    Holds.changed(key)
    old
  end

  defp ids(unit, before) do
    held = Enum.flat_map(before, &if(Hold.held?(&1), do: &1.ids, else: []))
    for {id, ran?} <- unit, ran? or id in held, do: id
  end

  @doc """
  Called in the supervisor: the user has decided about this child, and done this. `alone?` tells that
  the strategy takes no others along.
  """
  @spec forget(pid(), term(), :terminate_child | :delete_child | :restart_child, boolean()) :: :ok
  def forget(supervisor, id, done, alone?) do
    # One that was on its way is still down where its user wants it to be.
    states =
      if done == :restart_child, do: [:held, :given_up], else: [:held, :given_up, :releasing]

    for %Hold{} = hold <- concerning(supervisor, id, alone?),
        hold.state in states and id in hold.ids,
        do: _ = without(Hold.key(hold), [id])

    :ok
  end

  @doc "Called in the supervisor: whether this process brings back this child, as part of this hold."
  @spec returns?(Hold.key(), term(), pid()) :: boolean()
  def returns?(key, id, releaser) do
    case Store.lookup(key) do
      %Hold{state: :releasing, releaser: ^releaser, ids: ids} -> id in ids
      _ -> false
    end
  end

  defp concerning(supervisor, id, true), do: List.wrap(Store.lookup({supervisor, id}))
  defp concerning(supervisor, _id, false), do: Store.all(supervisor)

  @doc "The children of a supervisor that wait to come back, so that nobody but their holds starts them."
  @spec ids(pid()) :: [id :: term()]
  def ids(supervisor) do
    for %Hold{state: state, ids: ids} when state in [:held, :given_up] <- Store.all(supervisor),
        id <- ids,
        do: id
  end

  defp now, do: System.monotonic_time(:millisecond)
end
