defmodule OOM.Bonds do
  @moduledoc false
  # The processes bound to a worker, which the worker's exit would take along, and the highest rank among
  # them. A bound process is
  #
  #   * linked with the worker, and does not trap exits. A stream of tasks is bound by links, too: the
  #     process watching the tasks is linked with each task and with the reader of the stream
  #   * started by the worker, even where the process traps exits: every OTP process ends with the parent
  #   * waiting just now for the worker's answer, in a call or in `Task.await`: the call fails with the
  #     worker. A monitor alone is no bond
  #
  # Processes bound to a bound process count in turn. The worker's supervisor does not count.
  #
  # Reading links and monitors is a signal to the process asked, and a process in a long collection answers
  # only afterwards. So only throw-away processes ask: in the background started by OOM.Bonds.Rounds, and
  # before a kill by OOM.Kill.

  alias OOM.{Accountant, Guard, InitialCall, Priority, Tree, Units, Victims, Waiting, Workers}

  # A walk looks at so many processes at most, and so many steps away from the first.
  @most 256
  @steps 8
  # The search for the starter of an unregistered process ends so many parents up.
  @generations 16
  # The walk looks at so many monitors of a process for a waiting call.
  @most_monitors 64
  # How long a kill waits for answers from processes besides the victim.
  @kill_ms 20

  @typep ties :: {links :: [pid()], monitors :: [pid()]}

  @doc "Returns the highest rank among the processes bound to a process; 0 where none is bound."
  @spec rank(pid()) :: Priority.rank()
  def rank(pid), do: walk([{pid, ties(pid)}], %{pid => true}, @steps, 0, fn _rank -> :ok end)

  @doc """
  Returns the same rank before a kill, for a suspended victim. Asks only the victim where the victim is
  linked to nothing but the supervisor; waits a bounded time for answers from further processes.
  """
  @spec at_kill(pid(), pid() | nil) :: Priority.rank()
  def at_kill(pid, supervisor) do
    case ties(pid) do
      {[], []} ->
        0

      {links, monitors} ->
        links = List.delete(links, supervisor)
        if links == [] and monitors == [], do: 0, else: beyond(pid, {links, monitors})
    end
  end

  # A process without an answer must not keep the victim alive: the rank known at the deadline counts.
  defp beyond(pid, ties) do
    {me, ref} = {self(), make_ref()}

    asks = fn ->
      tell = &send(me, {ref, &1})
      walk([{pid, ties}], %{pid => true}, @steps, 0, tell)
      send(me, {ref, :done})
    end

    {asker, monitor} = :erlang.spawn_opt(asks, [:monitor, priority: :max])
    rank = collect(ref, monitor, 0, System.monotonic_time(:millisecond) + @kill_ms)
    Process.exit(asker, :kill)
    Process.demonitor(monitor, [:flush])
    rank
  end

  defp collect(_ref, _monitor, :protected, _until), do: :protected

  defp collect(ref, monitor, rank, until) do
    receive do
      {^ref, :done} -> rank
      {^ref, higher} -> collect(ref, monitor, higher, until)
      {:DOWN, ^monitor, :process, _, _} -> rank
    after
      max(until - System.monotonic_time(:millisecond), 0) -> rank
    end
  end

  # No rank is higher than `:protected`, and the walk looks no further than the last step.
  defp walk(_taken, _seen, _steps, :protected, _tell), do: :protected
  defp walk([], _seen, _steps, rank, _tell), do: rank
  defp walk(_taken, _seen, 0, rank, _tell), do: rank

  defp walk(taken, seen, steps, rank, tell) do
    {next, seen, rank} =
      Enum.reduce_while(taken, {[], seen, rank}, fn {pid, ties}, acc ->
        case step(pid, ties, acc, tell) do
          {_, _, :protected} = found -> {:halt, found}
          {_, seen, _} = full when map_size(seen) > @most -> {:halt, full}
          acc -> {:cont, acc}
        end
      end)

    # After the last step the walk needs no further links.
    if steps == 1 or rank == :protected,
      do: rank,
      else: walk(Enum.map(next, &{&1, ties(&1)}), seen, steps - 1, rank, tell)
  end

  defp step(pid, {links, monitors}, acc, tell) do
    acc = Enum.reduce(links, acc, &add(&1, fn seen -> linked(&1, pid, seen) end, &2, tell))
    Enum.reduce(monitors, acc, &add(&1, fn _seen -> waiting(&1) end, &2, tell))
  end

  # A process without a worth (`nil`) would stay, and is not followed.
  defp add(_pid, _worth, {_, _, :protected} = acc, _tell), do: acc
  defp add(pid, _worth, {_, seen, _} = acc, _tell) when is_map_key(seen, pid), do: acc

  defp add(pid, worth, {next, seen, rank} = acc, tell) do
    with worth when worth != nil <- worth.(seen) do
      higher = Units.highest(rank, worth)
      if higher != rank, do: tell.(higher)
      {[pid | next], Map.put(seen, pid, true), higher}
    else
      nil -> acc
    end
  end

  # The worth of a process linked with `pid`; `nil` where the process would stay. No signal, unless the
  # process runs just now.
  defp linked(linked, pid, seen) do
    case :erlang.process_info(linked, [:trap_exit, :parent]) do
      [trap_exit: true, parent: ^pid] -> worth(linked, pid, seen)
      [trap_exit: false, parent: parent] -> worth(linked, parent, seen)
      _ -> nil
    end
  end

  # An unregistered process is a part of the process above. Below an unknown supervisor the process is not
  # OOM's to kill. A process spawned in passing is worth as much as the processes linked with it.
  defp worth(pid, parent, seen) do
    cond do
      registered = Units.worth(pid) -> registered
      Victims.marked?(pid) or Tree.supervisor?(pid) or is_map_key(seen, parent) -> 0
      known = above(parent, @generations) -> known
      supervisor?(parent) -> :protected
      true -> 0
    end
  end

  defp above(pid, generations) when is_pid(pid) and node(pid) == node() and generations > 0 do
    cond do
      # A unit lives and dies with all its parts, a worker not with every process started below.
      Workers.member?(pid) -> if Tree.kind(pid) == :unit, do: Units.worth(pid), else: 0
      Tree.supervisor?(pid) -> pid |> Tree.options() |> Tree.rank()
      true -> above(Tree.parent(pid), generations - 1)
    end
  end

  defp above(_nobody, _generations), do: nil

  defp supervisor?(pid),
    do:
      is_pid(pid) and node(pid) == node() and
        match?({:supervisor, _, _}, InitialCall.of_supervisor(pid))

  # A waiting process unknown to OOM counts as rank 0: any process may call any worker at any time.
  defp waiting(pid) do
    with {_, status} when status in [:waiting, :suspended] <- :erlang.process_info(pid, :status),
         true <- pid |> Waiting.place() |> Waiting.answer?() do
      Units.worth(pid) || 0
    else
      _ -> nil
    end
  end

  # Local processes only, and without OOM's own monitors: those watch every worker.
  @spec ties(pid()) :: ties()
  defp ties(pid) do
    case :erlang.process_info(pid, [:links, :monitored_by]) do
      [links: links, monitored_by: monitors] -> {local(links), monitors(monitors)}
      :undefined -> {[], []}
    end
  end

  defp local(pids), do: Enum.filter(pids, &(is_pid(&1) and node(&1) == node()))

  defp monitors(pids) do
    ours = [self(), Process.whereis(Accountant), Process.whereis(Guard)]

    case local(pids) -- ours do
      [] -> []
      # The accountant or the guard may monitor a worker twice.
      others -> others |> Enum.uniq() |> Enum.reject(&(&1 in ours)) |> Enum.take(@most_monitors)
    end
  end
end
