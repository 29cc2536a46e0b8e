defmodule OOM.Holds.Release do
  @moduledoc false
  # Asks a supervisor to start held children, in a process of its own, the releaser, because a start may
  # take any time. The releaser writes the result into the row. A crash of OOM.Holds meanwhile loses nothing
  # and starts nothing twice: the next OOM.Holds finds the releaser in the row, and waits for its end.

  alias OOM.{Hold, Holds, Visit}
  alias OOM.Holds.{Alarm, Store}

  @type result :: :ok | {:error, term()}

  @doc """
  Begins the release of a hold that `may?` lets go. Returns the releaser, a monitor of it and the new hold,
  or `nil`. The releaser exits with `{:shutdown, {:released, t:result/0}}`.
  """
  @spec begin(Hold.key(), (Hold.t() -> Hold.t() | nil)) :: {pid(), reference(), Hold.t()} | nil
  def begin(key, may?) do
    {pid, ref} = spawn_monitor(__MODULE__, :wait, [self()])

    change = fn hold ->
      case hold && may?.(hold) do
        nil -> hold
        hold -> Hold.releasing(hold, pid)
      end
    end

    case Store.update(key, change) do
      {_, %Hold{releaser: ^pid} = hold} ->
        send(pid, {:go, hold})
        {pid, ref, hold}

      _ ->
        Process.demonitor(ref, [:flush])
        Process.exit(pid, :kill)
        nil
    end
  end

  # Nothing starts before the row names the releaser. Otherwise a crash of OOM.Holds would hide the start.
  @doc false
  @spec wait(pid()) :: :ok
  def wait(holds) do
    ref = Process.monitor(holds)

    receive do
      {:go, hold} -> hold |> run() |> then(&exit({:shutdown, {:released, &1}}))
      {:DOWN, ^ref, _, _, _} -> :ok
    end
  end

  defp run(hold) do
    case start(hold.return, hold) do
      {:ok, pid} when is_pid(pid) -> rename(hold, pid)
      {:already_started, pid} -> replaced(hold, pid)
      result -> settle(hold, result)
    end
  end

  # A kill in the meantime has replaced the row, and wins.
  defp settle(hold, result) do
    {before, now} =
      Store.update(Hold.key(hold), fn
        %Hold{state: :releasing, releaser: me} = hold when me == self() -> settled(hold, result)
        other -> other
      end)

    Alarm.clear(before, now)

    with {:error, reason} <- result,
         true <- now != before,
         do: Alarm.start_failed(before, now, reason)

    result
  end

  defp settled(hold, :ok), do: Hold.released(hold, now())

  defp settled(hold, {:error, reason}),
    do: Hold.not_started(hold, reason, now(), &:rand.uniform/0)

  # Another process was started under the child's name, so no child is left to bring back.
  defp replaced(hold, pid) do
    Alarm.already_started(hold, hold.id, pid)
    {before, _none} = Store.update(Hold.key(hold), &if(mine?(&1), do: nil, else: &1))
    if mine?(before), do: Alarm.clear(before)
    :ok
  end

  defp mine?(hold), do: match?(%Hold{state: :releasing}, hold) and hold.releaser == self()

  @doc "Returns the hold after a release that was cut short."
  @spec failed(Hold.t()) :: Hold.t()
  def failed(hold), do: Hold.failed(hold, now(), &:rand.uniform/0)

  # The row moves to the new pid, where a relapse looks. A child killed again may have a row there already.
  defp rename(%Hold{supervisor: supervisor} = hold, pid) do
    {_, now} =
      Store.update({supervisor, pid}, fn
        nil -> hold |> Hold.renamed(pid) |> Hold.released(now())
        again -> Hold.relapsed(again, hold, now(), &:rand.uniform/0)
      end)

    {before, _} = Store.update(Hold.key(hold), fn _ -> nil end)
    Alarm.renamed(before || hold, now)
    Holds.changed({supervisor, pid})
    :ok
  end

  defp start({:start_child, request}, hold) do
    gone(hold.id)

    case GenServer.call(hold.supervisor, {:start_child, request}, :infinity) do
      {:ok, pid} when is_pid(pid) -> {:ok, pid}
      {:ok, pid, _info} when is_pid(pid) -> {:ok, pid}
      {:error, {:already_started, pid}} when is_pid(pid) -> {:already_started, pid}
      {:error, _} = error -> error
      # Ignored: the child stays down.
      _ -> :ok
    end
  end

  defp start({:gen_restart, pid}, hold) do
    gone(pid)

    case Visit.start(hold.supervisor, pid) do
      # A child that the user has terminated, or that ignores its start, stays down.
      {:error, :not_found} -> :ok
      result -> result
    end
  end

  defp start(how, %Hold{supervisor: supervisor} = hold) do
    Enum.reduce_while(hold.ids, :ok, fn id, :ok ->
      # A child just started may have been killed again. The new hold then covers all ids.
      with %Hold{state: :releasing} <- Store.lookup(Hold.key(hold)),
           result = restart(how, supervisor, Hold.key(hold), id),
           false <- failed?(result, hold, id) do
        {:cont, :ok}
      else
        {:error, _} = error -> {:halt, error}
        _ -> {:halt, :ok}
      end
    end)
  end

  # The supervisor has forgotten the child and does not wait for its end, and the child must not run twice.
  # The killer makes sure of the end.
  defp gone(pid) when is_pid(pid) do
    ref = Process.monitor(pid)
    receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
  end

  defp gone(_id), do: :ok

  defp restart(:restart_child, supervisor, _key, id),
    do: :supervisor.restart_child(supervisor, id)

  defp restart(:restart_held, supervisor, key, id),
    do: GenServer.call(supervisor, {__MODULE__, key, id}, :infinity)

  # Another process runs in the child's place, so the hold has nothing to wait for.
  defp failed?({:error, {:already_started, pid}}, hold, id) when is_pid(pid) do
    Alarm.already_started(hold, id, pid)
    false
  end

  defp failed?({:error, reason} = error, _hold, _id),
    do: if(reason in [:running, :restarting, :not_found], do: false, else: error)

  defp failed?(_, _hold, _id), do: false

  @doc """
  Starts the children of all `holds`, for which no later return will come. Supervisors are asked in
  parallel. Waits `timeout_ms` at most.
  """
  @spec all([Hold.t()], timeout()) :: :ok
  def all(holds, timeout_ms) do
    monitors =
      for {_supervisor, holds} <- Enum.group_by(holds, & &1.supervisor) do
        {_pid, ref} = spawn_monitor(fn -> Enum.each(holds, &unheld/1) end)
        ref
      end

    until = now() + timeout_ms

    for ref <- monitors do
      receive do
        {:DOWN, ^ref, _, _, _} -> :ok
      after
        max(until - now(), 0) -> Process.demonitor(ref, [:flush])
      end
    end

    :ok
  end

  defp unheld(%Hold{return: {:start_child, request}} = hold) do
    gone(hold.id)
    GenServer.call(hold.supervisor, {:start_child, request}, :infinity)
  end

  defp unheld(%Hold{return: {:gen_restart, pid}} = hold) do
    gone(pid)
    send(hold.supervisor, {:"$gen_restart", pid})
  end

  defp unheld(hold),
    do: Enum.each(hold.ids, &:supervisor.restart_child(hold.supervisor, &1))

  defp now, do: System.monotonic_time(:millisecond)
end
