defmodule OOM.Throttle do
  @moduledoc false
  # Slows the workers that grow, in slices, while growth would reach the floor soon: they stand still
  # for 15 to 40 ms and run for 1 ms or more, so that growth fits the time that exact figures, a trim and a
  # decision take. A legitimate load goes through, a little later; a leak arrives at the floor slowly.
  # While workers stand still they answer at once: each stand reads their figures anew.
  #
  #   * All that may be killed stand still at first. One that does not want to run, or that has run and
  #     has not grown, is left alone for a while.
  #   * Of the others those run whose last runs fit into what is left above the floor (OOM.Slices). One
  #     whose run takes more than that waits for its turn; it is the next victim. At the floor one that
  #     grows and cannot be ended, because a protected one would end with it, stands until there is room:
  #     one that sleeps between its steps, too, which 40 ms of standing do not slow.
  #   * Where memory grows in nobody's figures while all stand (OOM.Standing), the growth is none of theirs,
  #     and the throttle ends.
  #
  # `suspend_process/2` is meant for debugging, because others may wait for what is suspended. So
  # nobody stands for longer than 50 ms at a stretch who is not shown to grow, and supervisors and
  # protected workers never do. Nothing is lost: state and messages are kept, and an exit signal still
  # ends a suspended process.
  #
  # Whoever suspends must end the suspension, and the VM ends it when he ends: so it is a process of
  # its own, which also ends with the guard. It needs nobody to go on, and ends by itself when the
  # workers, let run, do not grow towards the floor any more. It asks no worker anything itself.

  alias OOM.{Native, Slices, Steps, Tables}
  alias OOM.Limits.Turn
  alias OOM.Throttle.{Run, Sample, Stand, State}

  @type t :: %{pid: pid(), ref: reference()}

  @doc """
  Begins to throttle; the caller is told of the end by the monitor. With `trim?` each stand gives back the
  segments that the collections of large heaps have freed.
  """
  @spec start(Native.watcher(), boolean()) :: t()
  def start(watcher, trim? \\ false) do
    options = [:monitor, priority: :max, min_heap_size: 20_000, message_queue_data: :off_heap]
    {pid, ref} = :erlang.spawn_opt(__MODULE__, :run, [self(), watcher, trim?], options)
    %{pid: pid, ref: ref}
  end

  @doc "These have to act on their exit signal, and go on."
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
        state.calm >= Turn.calm_turns() -> :ok
        true -> turn(%{state | turn: state.turn + 1})
      end
    end
  end

  # Growth of nobody's does not make room for steps that do not fit together: let go, two heaps of 110 MB
  # were copied at once.
  defp crowded?(%{line: %{seen: seen}} = state) do
    steps = for {pid, _, _} <- seen, do: Steps.bytes_of(pid)

    Slices.crowded?(
      steps,
      Sample.distance(Sample.take(state.watcher)),
      :erlang.system_info(:schedulers_online)
    )
  end
end
