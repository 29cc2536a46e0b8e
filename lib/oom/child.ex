defmodule OOM.Child do
  @moduledoc false
  # The start of a child, wrapped (OOM.Child.Spec): runs in the supervisor, starts what the child
  # specification says, and registers the result. Works under any supervisor.

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

  # By then one that was `:killed` while it started is no victim, if whoever reads the VM's reports does
  # not answer.
  @verdict_ms 5_000
  # The rank of those that go last.
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

  # What a supervisor would start by itself only for the guard to end it: where starts take long and
  # what they start grows fast, each of them takes memory that is gone by the time it is dead. So only
  # while the guard kills, and kills such as this one: where it may not, or has given up, or is at it
  # with those that are worth less, what wants to run runs. A start that somebody asked for is a start,
  # and a temporary child would never come; the end of a significant one has a meaning that its absence
  # must not have.
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

      # A process of another node is neither ours to watch nor to kill.
      with pid when is_pid(pid) and node(pid) == node() and pid != self() <- pid(result),
           do: Tables.while_there(fn -> registered(pid, id, options, cap) end)

      result
    end)
    |> kept(id, options, began_ms)
  end

  @doc "Whether the VM may end a worker of these options for its heap."
  @spec capped?(keyword()) :: boolean()
  def capped?(options) do
    case Tables.config() do
      nil -> false
      config -> options |> cap(config) |> HeapCaps.bytes(rank(options)) != nil
    end
  end

  # Where nobody may be killed, the VM does it only where that was asked for.
  defp cap(options, config) do
    default = if config.kill, do: config.max_heap_size, else: :infinity

    case Keyword.fetch(options, :max_heap_size) do
      {:ok, size} -> {size, :own}
      :error -> {default, :default}
    end
  end

  # One that is ended by memory while it starts is a victim like any other: held, and no reason
  # for its supervisor to fail.
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

  # Whose end it was nobody tells: a start that fails has no pid. So it is a victim's where somebody
  # was marked since it began; the VM's report of a cap may still be on its way.
  defp memory?({:shutdown, :memory_pressure}, _began_ms), do: true
  defp memory?(:killed, began_ms), do: marked_since?(began_ms)
  defp memory?(_reason, _began_ms), do: false

  defp marked_since?(began_ms) do
    # What comes too late does not come.
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

  # What is below it may ask for its options before it is started, and until these are where they
  # stay.
  defp starting(options, fun) do
    Tables.while_there(fn -> Tree.Start.starting(below(options), beginner(options)) end)

    try do
      fun.()
    after
      Tables.while_there(&Tree.Start.started/0)
    end
  end

  # What a worker is worth that is registered before it has started. With whom it goes nobody has looked: it
  # goes last.
  defp beginner(options) do
    cond do
      not (worker?(options) or unit?(options)) or inside_unit?() -> nil
      alone?(options) -> rank(options)
      true -> Units.highest(rank(options), @last)
    end
  end

  # A temporary one is not held, and takes nobody along.
  defp alone?(options) do
    Callback.strategy() not in [:one_for_all, :rest_for_one] or
      options[:restart] == :temporary
  end

  # What holds below a supervisor; a unit is one worker, whatever is in it.
  defp below(options),
    do: inherit(if unit?(options), do: [inside_unit: true] ++ options, else: options)

  defp inherit(options), do: Keyword.merge(Tree.Start.here(), options)

  defp unit?(options), do: options[:unit] == true
  defp inside_unit?, do: Tree.Start.here()[:inside_unit] == true

  defp registered(pid, id, options, cap) do
    # A plain supervisor would never take it back.
    if Callback.here?(), do: Children.put(pid, id, options)

    # What is in a unit dies with it.
    unless inside_unit?(), do: register(pid, id, options)

    # A supervisor grows no heap of its own worth a cap, and must never die of one.
    if cap != nil, do: HeapCaps.started(pid, cap, rank(options)), else: :ok
  end

  defp register(pid, id, options) do
    # A plain supervisor does not tell of itself.
    Tree.Place.met(self())

    cond do
      unit?(options) ->
        Tree.put(pid, :unit, self(), below(options))
        Workers.attach(pid, rank(options), self(), id, options)

      # It has said so itself, whatever its specification says.
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

  @doc "Called in the supervisor: what a child of these options is worth there."
  @spec rank(keyword()) :: Priority.rank()
  def rank(options), do: options |> inherit() |> Tree.rank()

  defp worker?(options), do: Keyword.get(options, :type, :worker) == :worker

  defp pid({:ok, pid}) when is_pid(pid), do: pid
  defp pid({:ok, pid, _info}) when is_pid(pid), do: pid
  defp pid(_), do: nil

  defp apply_mfa({module, function, args}), do: apply(module, function, args)

  defp now, do: System.monotonic_time(:millisecond)
end
