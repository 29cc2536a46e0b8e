defmodule OOM.Brake do
  @moduledoc false
  # Stops those whose turn it is while the first of them die, so that memory stands still, figures
  # hold, and no more have to die than must.
  #
  # `suspend_process/2` is meant for debugging, because others may wait for what is suspended. So it
  # is done where the end is less than a blink away, to workers of the lowest priority, who would be
  # killed next, and not for long. Nothing is lost: state and messages are kept, and an exit signal
  # still ends it. Asynchronous, it takes 1 us each, and running ones stop when their turn ends.
  #
  # Whoever suspends must end the suspension, and the VM ends it when he ends: so it is a process of
  # its own, and whatever ends that, all of them go on. It ends soon after nobody has asked for it.

  alias OOM.Plan

  # After so long at a stretch, a lease more at most, all go on for about as long.
  @longest_ms 500
  # New ones come, and others turn out to be more likely.
  @again_ms 20
  # So long after the last sample that asked for it, all go on.
  @lease_ms 60
  # Who was small so long ago may be the one that grows.
  @fresh_ms 10

  @type t :: %{pid: pid(), since_ms: integer(), sent_ms: integer()} | nil

  @doc "At an urgent sample: begins, goes on, and takes in who came meanwhile."
  @spec on(t(), Plan.limits()) :: t()
  def on(nil, %{now_ms: now_ms} = limits) do
    pid = :erlang.spawn_opt(__MODULE__, :run, [limits], priority: :max)
    %{pid: pid, since_ms: now_ms, sent_ms: now_ms}
  end

  def on(%{since_ms: since, sent_ms: sent} = brake, %{now_ms: now_ms} = limits) do
    cond do
      sent - since >= @longest_ms - @lease_ms and now_ms - sent < @longest_ms ->
        brake

      now_ms - sent >= @lease_ms ->
        on(nil, limits)

      now_ms - sent >= @again_ms ->
        send(brake.pid, {:suspend, limits})
        %{brake | sent_ms: now_ms}

      true ->
        brake
    end
  end

  @doc "These have to act on their exit signal, and go on."
  @spec release(t(), [pid()]) :: :ok
  def release(nil, _pids), do: :ok

  def release(brake, pids) do
    send(brake.pid, {:resume, pids})
    :ok
  end

  @doc false
  @spec run(Plan.limits()) :: :ok
  def run(limits), do: limits |> suspend_all(%{}) |> loop(lease())

  defp loop(suspended, until_ms) do
    receive do
      {:suspend, limits} -> limits |> suspend_all(suspended) |> loop(lease())
      {:resume, pids} -> pids |> Enum.reduce(suspended, &resume/2) |> loop(until_ms)
    after
      max(until_ms - now(), 0) -> :ok
    end
  end

  defp lease, do: now() + @lease_ms
  defp now, do: System.monotonic_time(:millisecond)

  defp suspend_all(limits, suspended),
    do: Enum.reduce(Plan.next_in_line(%{limits | fresh_ms: @fresh_ms}), suspended, &suspend/2)

  defp suspend(pid, suspended) when is_map_key(suspended, pid), do: suspended

  defp suspend(pid, suspended) do
    :erlang.suspend_process(pid, [:asynchronous])
    Map.put(suspended, pid, true)
  rescue
    # One that has ended is no error on every release.
    ArgumentError -> suspended
  end

  defp resume(pid, suspended) when is_map_key(suspended, pid) do
    :erlang.resume_process(pid)
    Map.delete(suspended, pid)
  rescue
    ArgumentError -> Map.delete(suspended, pid)
  end

  defp resume(_pid, suspended), do: suspended
end
