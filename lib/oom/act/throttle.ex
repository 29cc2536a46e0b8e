defmodule OOM.Throttle do
  @moduledoc false
  # Slows the workers that grow, in slices, while growth would reach the floor soon. The workers stand still
  # for 15 to 40 ms and run for 1 ms or more, so that growth fits the time for exact figures, a trim and a
  # decision. A legitimate load goes through, a little later; a leak arrives at the floor slowly. Workers that
  # stand still answer at once, so each stand reads their figures anew.
  #
  #   * All workers that may be killed stand still at first. A worker that does not want to run, or that has
  #     run and not grown, is left alone for a while.
  #   * Of the others, workers run whose last runs fit into the room above the floor (OOM.Slices). A worker
  #     with a dearer run waits for its turn, and is the next victim. A grower that cannot be killed, because
  #     a protected worker would end with it, stands at the floor until there is room, even a worker that
  #     sleeps between its steps: 40 ms of standing do not slow such a worker.
  #   * Where memory grows in no worker's figures while all stand (OOM.Standing), the growth is foreign, and
  #     the throttle ends.
  #
  # `suspend_process/2` is meant for debugging, because other processes may wait for a suspended process. So a
  # worker not shown to grow stands for at most 50 ms at a stretch, and supervisors and protected workers
  # never do. Nothing is lost: state and messages are kept, and an exit signal still ends a suspended process.
  #
  # Only the process that suspends can end the suspension, and the VM ends it with that process. So the
  # throttle is a process of its own, which also ends with the guard. It goes on by itself, ends once the
  # workers, let run, no longer grow towards the floor, and asks no worker anything.

  alias OOM.{Native, Slices, Steps, Tables}
  alias OOM.Limits.Turn
  alias OOM.Throttle.{Run, Sample, Stand, State}

  @type t :: %{pid: pid(), ref: reference()}

  @doc """
  Starts the throttle; the monitor tells the caller of the end. With `trim?` each stand gives back the
  segments that the collections of large heaps have freed.
  """
  @spec start(Native.watcher(), boolean()) :: t()
  def start(watcher, trim? \\ false) do
    options = [:monitor, priority: :max, min_heap_size: 20_000, message_queue_data: :off_heap]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, [self(), watcher, trim?], options)
    %{pid: pid, ref: ref}
  end

  @doc "Lets these workers go on, because they have to act on their exit signal."
  @spec release(t() | nil, [pid()]) :: :ok
  def release(nil, _pids), do: :ok

  def release(throttle, pids) do
    send(throttle.pid, {:release, pids})
    :ok
  end

  @doc false
  @spec run(pid(), Native.watcher(), boolean()) :: :ok | no_return()
  def run(guard, watcher, trim?),
    do: Tables.while_there(fn -> turn(State.new(Process.monitor(guard), watcher, trim?)) end)

  defp turn(state) do
    with {:ok, state} <- Stand.run(state), {:ok, state} <- Run.run(state) do
      cond do
        state.line.foreign? and not crowded?(state) -> exit({:shutdown, :foreign})
        state.calm >= Turn.calm_turns() and not crowded?(state) -> :ok
        true -> turn(%{state | turn: state.turn + 1})
      end
    end
  end

  # Neither foreign nor slow growth makes room for steps that do not fit together: let go, two heaps of 110 MB
  # were copied at once, or one of 105 MB by a worker that grew by 100 MB/s.
  defp crowded?(%{line: %{seen: seen}} = state) do
    steps = for {pid, _, _} <- seen, do: Steps.bytes_of(pid)

    Slices.crowded?(
      steps,
      Sample.distance(Sample.take(state.watcher)),
      :erlang.system_info(:schedulers_online)
    )
  end
end
