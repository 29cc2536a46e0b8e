defmodule OOM.Holds.Down do
  @moduledoc false
  # Reports of supervisors on children that are down because of memory. The supervisor, or a process acting
  # for the supervisor, writes into the table of holds and tells OOM.Holds.

  alias OOM.{Hold, Holds, Tables, Victims}
  alias OOM.Holds.{Alarm, Release, Store}

  @typedoc "The children a strategy takes down, in start order, and whether each ran until now."
  @type unit :: [{id :: term(), ran? :: boolean()}]

  @doc """
  Holds a child whose process `pid` was killed, along with the children of the unit that ran. Children of
  the unit held already join this hold, and come back together. Called in the supervisor, or by a process
  acting for the supervisor.

  The hold is in the table on return, so no crash of OOM.Holds can lose it.

  Options: `:backoff` and `:max_kills`, by default from the configuration; `:return`, see
  `t:OOM.Hold.return/0`; `:killed?`, `false` for a child that was not started at all.
  """
  @spec hold(pid(), term(), unit(), pid(), keyword()) :: :ok
  def hold(supervisor, id, unit, pid, options) do
    hold = stored(Tables.config(), supervisor, id, unit, pid, options)
    Holds.changed({supervisor, id})

    # The application is stopping, and the stop may have read the table before this hold was written.
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
    # The application is stopped, and the tables are gone.
    ArgumentError -> nil
  end

  defp down(hold, true, bytes, now), do: Hold.killed(hold, bytes, now, &:rand.uniform/0)
  defp down(hold, false, _bytes, now), do: Hold.turned_away(hold, now, &:rand.uniform/0)

  # Holds of the same supervisor that share a child with the unit. The unit takes over the shared children.
  defp absorb(_supervisor, _id, [_alone]), do: []

  defp absorb(supervisor, id, unit) do
    members = Enum.map(unit, &elem(&1, 0))

    for %Hold{} = other <- Store.all(supervisor),
        other.id != id and Hold.held?(other),
        Enum.any?(other.ids, &(&1 in members)),
        do: without(Hold.key(other), members)
  end

  # Returns the hold as before the change.
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
  Called in the supervisor: ends the hold of a child that the user has terminated, deleted or restarted.
  `alone?` tells that the strategy takes no siblings down.
  """
  @spec forget(pid(), term(), :terminate_child | :delete_child | :restart_child, boolean()) :: :ok
  def forget(supervisor, id, done, alone?) do
    # A terminated or deleted child stays down, even where a return was under way.
    states =
      if done == :restart_child, do: [:held, :given_up], else: [:held, :given_up, :releasing]

    for %Hold{} = hold <- concerning(supervisor, id, alone?),
        hold.state in states and id in hold.ids,
        do: _ = without(Hold.key(hold), [id])

    :ok
  end

  @doc "Called in the supervisor: tells whether `releaser` brings back this child, as part of this hold."
  @spec returns?(Hold.key(), term(), pid()) :: boolean()
  def returns?(key, id, releaser) do
    case Store.lookup(key) do
      %Hold{state: :releasing, releaser: ^releaser, ids: ids} -> id in ids
      _ -> false
    end
  end

  defp concerning(supervisor, id, true), do: List.wrap(Store.lookup({supervisor, id}))
  defp concerning(supervisor, _id, false), do: Store.all(supervisor)

  @doc "Returns the ids of a supervisor's children waiting to come back, which only their holds may start."
  @spec ids(pid()) :: [id :: term()]
  def ids(supervisor) do
    for %Hold{state: state, ids: ids} when state in [:held, :given_up] <- Store.all(supervisor),
        id <- ids,
        do: id
  end

  defp now, do: System.monotonic_time(:millisecond)
end
