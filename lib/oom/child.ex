defmodule OOM.Child do
  @moduledoc false
  # The wrapped start of a child (OOM.Child.Spec). Runs in the supervisor, starts the child as specified, and
  # registers the result. Works under any supervisor.

  alias OOM.{
    Asker,
    Heap,
    HeapCaps,
    HeapReports,
    Holds,
    Priority,
    RecentKills,
    Reporter,
    Tables,
    Tree,
    Units,
    Victims,
    Workers
  }

  alias OOM.Supervisor.{Callback, Children, Starts}
  alias OOM.Tree.Census

  # The longest wait for the reader of the VM's reports, about a child that was `:killed` during its start.
  @verdict_ms 5_000
  # The rank of workers that go last.
  @last 1000

  @doc false
  @spec start_link({module(), atom(), [term()]}, term(), keyword()) :: term()
  def start_link({module, function, _args} = mfa, id, options) do
    case Tables.config() do
      nil ->
        apply_mfa(mfa)

      config ->
        options =
          if options[:restart] == :temporary,
            do: [{:start, {module, function}} | options],
            else: options

        cond do
          Starts.held?(id) -> :ignore
          turned_away?(options, config) -> turn_away(id, options)
          true -> started(mfa, id, options, config)
        end
    end
  end

  # Tells whether the guard would end this child right after a start by the supervisor itself. Where starts
  # are slow and the children grow fast, each start takes memory until the child is dead. So the supervisor
  # turns a child away only while the guard kills children of this rank or a higher rank. Where the guard
  # may not kill, has given up, or kills lower ranks, the child starts. A start requested by the user always
  # goes ahead, a temporary child would never come back, and the absence of a significant child must not
  # count as its end.
  defp turned_away?(options, config) do
    config.kill and Starts.own?() and OOM.level() == :critical and
      options[:restart] != :temporary and not Keyword.get(options, :significant, false) and
      Callback.strategy() == :one_for_one and (worker?(options) or unit?(options)) and
      not inside_unit?() and rank(options) != :protected and
      RecentKills.any?(rank(options), now())
  end

  defp turn_away(id, options) do
    Holds.Down.hold(
      self(),
      id,
      [{id, true}],
      self(),
      [return: :restart_held, killed?: false] ++ options
    )

    Reporter.turned_away(self(), id)
    :ignore
  end

  defp started(mfa, id, options, config) do
    cap = if worker?(options), do: cap(options, config)
    began_ms = now()

    starting(options, fn ->
      result = mfa |> Heap.wrap(cap, rank(options)) |> apply_mfa()

      # A process of another node is never watched or killed.
      with pid when is_pid(pid) and node(pid) == node() and pid != self() <- pid(result),
           do: Tables.while_there(fn -> registered(pid, id, options, cap) end)

      result
    end)
    |> kept(id, options, began_ms)
  end

  @doc "Called in an OOM.Supervisor: enters a child that was started before the application."
  @spec rejoin(pid(), term(), keyword()) :: :ok
  def rejoin(pid, id, options) do
    config = Tables.config()

    if config != nil and node(pid) == node() do
      cap = if worker?(options), do: cap(options, config)
      Tables.while_there(fn -> registered(pid, id, options, cap) end)
    else
      :ok
    end
  end

  @doc "Tells whether the VM may end a worker with these options for its heap."
  @spec capped?(keyword()) :: boolean()
  def capped?(options) do
    case Tables.config() do
      nil -> false
      config -> options |> cap(config) |> HeapCaps.bytes(rank(options)) != nil
    end
  end

  # With `kill: false`, only caps set for the child or its supervisor apply.
  defp cap(options, config) do
    default = if config.kill, do: config.max_heap_size, else: :infinity

    case Keyword.fetch(options, :max_heap_size) do
      {:ok, size} -> {size, :own}
      :error -> {default, :default}
    end
  end

  # A child ended by memory pressure during its start is a victim: held, and no reason for the supervisor
  # to fail.
  defp kept({:error, reason} = error, id, options, began_ms) do
    cond do
      not (Starts.own?() and rank(options) != :protected and memory?(reason, began_ms)) ->
        error

      options[:restart] == :temporary ->
        :ignore

      true ->
        Holds.Down.hold(self(), id, [{id, true}], self(), [return: :restart_held] ++ options)
        :ignore
    end
  end

  defp kept(result, _id, _options, _began_ms), do: result

  # A failed start has no pid, so the victim is unknown. The failure counts as a kill if any process was
  # marked since the start began; the VM's report of a cap may still be on its way.
  defp memory?({:shutdown, :memory_pressure}, _began_ms), do: true
  defp memory?(:killed, began_ms), do: marked_since?(began_ms)
  defp memory?(_reason, _began_ms), do: false

  defp marked_since?(began_ms) do
    # An alias drops an answer that comes too late.
    read = :erlang.alias([:explicit_unalias])
    HeapReports.tell_when_read(fn -> Victims.since?(began_ms) end, read, read)

    receive do
      ^read -> :ok
    after
      @verdict_ms -> :ok
    end

    :erlang.unalias(read)
    Victims.since?(began_ms)
  end

  # A process below may ask for its options before the start is through and the options are in the tree.
  defp starting(options, fun) do
    Tables.while_there(fn -> Tree.Start.starting(below(options), beginner(options)) end)

    try do
      fun.()
    after
      Tables.while_there(&Tree.Start.started/0)
    end
  end

  # The rank of a worker registered before its start is through. No walk has seen the siblings yet, so a
  # worker under a strategy with dependent children goes last.
  defp beginner(options) do
    cond do
      not (worker?(options) or unit?(options)) or inside_unit?() -> nil
      alone?(options) -> rank(options)
      true -> Units.highest(rank(options), @last)
    end
  end

  # A temporary child is not held, and takes no sibling down.
  defp alone?(options) do
    Callback.strategy() not in [:one_for_all, :rest_for_one] or
      options[:restart] == :temporary
  end

  # The options for the children of a supervisor. A unit is one worker, whatever is inside.
  defp below(options),
    do: inherit(if unit?(options), do: [inside_unit: true] ++ options, else: options)

  defp inherit(options), do: Keyword.merge(Tree.Start.here(), options)

  defp unit?(options), do: options[:unit] == true
  defp inside_unit?, do: Tree.Start.here()[:inside_unit] == true

  defp registered(pid, id, options, cap) do
    # A plain supervisor would never delete the entry.
    if Callback.here?(), do: Children.put(pid, id, options)

    # A process in a unit dies with the unit.
    unless inside_unit?(), do: register(pid, id, options)

    # A supervisor gets no cap: its heap stays small, and a cap must never kill a supervisor.
    if cap != nil, do: HeapCaps.started(pid, cap, rank(options)), else: :ok
  end

  defp register(pid, id, options) do
    # A plain supervisor does not register itself.
    Tree.Place.met(self())

    cond do
      unit?(options) ->
        Tree.put(pid, :unit, self(), below(options))
        Workers.attach(pid, rank(options), self(), id, options)

      # The child has registered as a supervisor, whatever the specification says.
      worker?(options) and Tree.supervisor?(pid) ->
        Census.changed()

      worker?(options) ->
        rank = if alone?(options), do: rank(options), else: Units.started(pid, rank(options))

        Workers.attach(pid, rank, self(), id, options)
        if Keyword.get(options, :handle_pressure, false), do: Asker.listens(pid, true)

      true ->
        Tree.declared(pid, self(), below(options))
    end
  end

  @doc "Called in the supervisor: returns the rank of a child with these options."
  @spec rank(keyword()) :: Priority.rank()
  def rank(options), do: options |> inherit() |> Tree.rank()

  defp worker?(options), do: Keyword.get(options, :type, :worker) == :worker

  defp pid({:ok, pid}) when is_pid(pid), do: pid
  defp pid({:ok, pid, _info}) when is_pid(pid), do: pid
  defp pid(_), do: nil

  defp apply_mfa({module, function, args}), do: apply(module, function, args)

  defp now, do: System.monotonic_time(:millisecond)
end
