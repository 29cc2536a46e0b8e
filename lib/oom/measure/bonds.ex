defmodule OOM.Bonds do
  @moduledoc false
  # Whom the exit of a process would take along, and what the most important of them is worth. These go
  # with it:
  #
  #   * those linked with it that do not trap exits. A stream of tasks is bound by that, too: the process
  #     that watches its tasks is linked with them and with who reads the stream
  #   * those it has started, even where they trap exits: every OTP process ends with its parent
  #   * those that wait for its answer just now, in a call or in `Task.await`: they fail with it. A
  #     monitor alone is no bond
  #
  # and with each of these, who goes with that one in turn. The supervisor it has is none of them.
  #
  # Links and monitors are a signal to whoever is asked, and one in a long collection answers after it.
  # So only throw-away processes ask: those of OOM.Bonds.Rounds in the background, and OOM.Kill before
  # it kills.

  alias OOM.{Accountant, Guard, InitialCall, Priority, Tree, Units, Victims, Workers}

  # So many processes at most, and so many steps away from the first.
  @most 256
  @steps 8
  # Further up nobody looks, who has started one that is not registered.
  @generations 16
  # Of so many of its monitors it is asked whether they wait.
  @most_monitors 64
  # Where somebody stands who fails when the one he waits for ends. Task.yield does not. In
  # Elixir 1.18 and later Task.await stands in a function of its own.
  @awaits [{:gen, :do_call}, {Task, :await}, {Task, :await_receive}, {Task, :await_many}]
  # How long a kill waits for what others than the victim have to tell.
  @kill_ms 20

  @typep ties :: {links :: [pid()], monitors :: [pid()]}

  @doc "The highest rank that its exit would take along besides its own; 0 where it takes nobody."
  @spec rank(pid()) :: Priority.rank()
  def rank(pid), do: walk([{pid, ties(pid)}], %{pid => true}, @steps, 0, fn _rank -> :ok end)

  @doc """
  The same before a kill, for a victim that stands still. Nobody else than the victim is asked where it
  has nothing but its supervisor; and others are waited for only so long.
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

  # Somebody who does not answer must not keep the victim alive: what is known by then counts.
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

  # Nobody is worth more; and whoever is farther away is not looked at.
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

    # Whom nobody else is asked about any more need not be asked.
    if steps == 1 or rank == :protected,
      do: rank,
      else: walk(Enum.map(next, &{&1, ties(&1)}), seen, steps - 1, rank, tell)
  end

  defp step(pid, {links, monitors}, acc, tell) do
    acc = Enum.reduce(links, acc, &add(&1, fn seen -> linked(&1, pid, seen) end, &2, tell))
    Enum.reduce(monitors, acc, &add(&1, fn _seen -> waiting(&1) end, &2, tell))
  end

  # It goes with one that goes, unless it has no worth.
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

  # What one that is linked with `pid` is worth, `nil` where it would stay. Both are read without a signal
  # to one that does not run just now.
  defp linked(linked, pid, seen) do
    case :erlang.process_info(linked, [:trap_exit, :parent]) do
      [trap_exit: true, parent: ^pid] -> worth(linked, pid, seen)
      [trap_exit: false, parent: parent] -> worth(linked, parent, seen)
      _ -> nil
    end
  end

  # One that nobody has registered is a part of whoever started it; where that is nobody we know, and it
  # has a supervisor, it is not ours to kill. What somebody has spawned in passing is worth as much as
  # those it is linked with.
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
      # A unit lives and dies with its parts. A worker does not with all that it starts.
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

  # Of those that are not ours anybody may ask anything of anyone, at any time.
  defp waiting(pid) do
    with {_, status} when status in [:waiting, :suspended] <- :erlang.process_info(pid, :status),
         {_, {module, function, _arity}} when {module, function} in @awaits <-
           :erlang.process_info(pid, :current_function) do
      Units.worth(pid) || 0
    else
      _ -> nil
    end
  end

  # Those of this node; ours monitor everybody.
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
      # One that the accountant has asked to watch twice, or the guard.
      others -> others |> Enum.uniq() |> Enum.reject(&(&1 in ours)) |> Enum.take(@most_monitors)
    end
  end
end
