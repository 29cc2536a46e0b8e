defmodule OOM.Kill do
  @moduledoc false
  # Each victim gets a throw-away process at top priority. An exit signal alone does not raise the victim's
  # priority, so the signal would wait for the victim's turn; a question whether the victim is alive does
  # raise the priority. In a long collection the victim does not answer, so the guard never asks.
  #
  # A supervisor that does not know OOM is told first (OOM.Visit). The message is in the supervisor's mailbox
  # before the exit is, so even a busy supervisor neither restarts the child nor counts a crash.
  #
  # Links and calls are made at any time, so OOM.Bonds first asks which processes the exit would take along. The victim
  # is suspended meanwhile. The suspension costs neither time nor memory: the question, the suspension and the exit all
  # take effect when the victim is scheduled out.
  #
  # A child that its supervisor is starting just now is spared while there is time: an acceptor that had asked for such
  # a start got an error, and crashed.

  alias OOM.{Bonds, Guard, Leftovers, Owned, Priority, RecentKills, Reporter}
  alias OOM.{Steps, Tree, Units, Victims, Visit, Waiting, Workers}

  @reason {:shutdown, :memory_pressure}

  @doc """
  Starts a kill in a process of its own and returns the process. Marks the victim, so that no supervisor
  counts a crash, and takes the victim out of the plan at once: the plan's writers may be late, and a dead
  worker frees nothing. `urgent?` tells that there is no time for a grace.
  """
  @spec begin(pid(), pid() | nil, non_neg_integer(), integer(), pos_integer(), boolean()) :: pid()
  def begin(pid, supervisor, bytes, now_ms, grace_ms, urgent? \\ false) do
    Victims.mark(pid, now_ms, bytes)
    RecentKills.note(Workers.rank(pid), now_ms)
    # The row of a step goes with the row of the worker.
    step = Steps.bytes_of(pid)
    row = Workers.take(pid)
    arguments = [row, pid, supervisor, grace_ms, {step, urgent?}]
    :erlang.spawn_opt(__MODULE__, :spare_or_run, arguments, priority: :max)
  end

  @doc false
  @spec spare_or_run(
          Workers.row() | nil,
          pid(),
          pid() | nil,
          pos_integer(),
          {step_bytes :: non_neg_integer(), urgent? :: boolean()}
        ) :: :ok
  # No row, so no rank to compare.
  def spare_or_run(nil, pid, supervisor, grace_ms, _), do: run(pid, supervisor, grace_ms)

  def spare_or_run(row, pid, supervisor, grace_ms, {step, urgent?}) do
    rank = elem(row, 1)
    still? = stand_still(pid)
    bond = Bonds.at_kill(pid, supervisor)
    # A victim that traps exits works on until it reads the order, and takes more than is left.
    works_on? =
      (step > 0 and not Steps.fits?(step)) or (urgent? and not Waiting.loop?(Waiting.place(pid)))

    cond do
      Units.highest(rank, bond) != rank ->
        Reporter.spared(pid, elem(row, 6), bond)
        spare(row, bond, still?)

      # Near the end the child goes all the same.
      not urgent? and Tree.Start.under_way?(pid, supervisor) ->
        Reporter.starting(pid)
        spare(row, bond, still?)

      true ->
        run(pid, supervisor, if(works_on?, do: 0, else: grace_ms), {rank, still?})
    end
  end

  # The guard counts on the victim's memory, and must hear that the worker stays.
  defp spare(row, bond, still?) do
    {pid, rank} = {elem(row, 0), elem(row, 1)}
    Workers.put_back(row, Units.spare(pid, rank, bond))

    # A walk of the tree may have dropped the bond meanwhile, because the worker was not registered.
    Units.bind(pid, bond)
    Victims.unmark(pid)
    go_on(pid, still?)
    tell_guard({:spared, pid, bond})
  end

  defp tell_guard(message) do
    with guard when is_pid(guard) <- Process.whereis(Guard), do: send(guard, message)
    :ok
  end

  # A worker that waits for a message allocates nothing meanwhile.
  defp stand_still(pid) do
    case :erlang.process_info(pid, :status) do
      {_, :waiting} -> false
      _ -> :erlang.suspend_process(pid, [:asynchronous])
    end
  rescue
    # The victim has ended.
    ArgumentError -> false
  end

  defp go_on(_pid, false), do: :ok

  defp go_on(pid, true) do
    _ = :erlang.resume_process(pid)
    :ok
  rescue
    # The victim has ended.
    ArgumentError -> :ok
  end

  @doc false
  @spec run(pid(), pid() | nil, non_neg_integer(), {Priority.rank(), boolean()}) :: :ok
  def run(pid, supervisor, grace_ms, {rank, still?} \\ {0, false}) do
    ref = Process.monitor(pid)
    ports = Owned.ports(pid)
    Owned.Ports.drop_at_end(ports)
    if Tree.consents?(supervisor), do: Visit.take(supervisor, pid)

    # A victim that traps exits leaves only for its parent, so the order comes first in the parent's name. Our
    # own exit signal is an unexpected message for such a victim: a GenServer would log the message or crash.
    # A crash formats the state, which takes a multiple of the memory to be freed.
    if supervisor != nil, do: send(pid, {:EXIT, supervisor, @reason})
    Process.exit(pid, @reason)
    if Tree.exit_reason(supervisor) == :kill, do: Process.exit(pid, :kill)

    # Before the victim, or a process the victim has started, takes a further step.
    if grace_ms == 0 do
      Process.exit(pid, :kill)
      Leftovers.end_below(%{pid => rank})
    else
      Leftovers.watch(pid, rank, grace_ms)
    end

    # A victim that traps exits leaves by itself, so the throttle must not suspend the victim any longer. The
    # victim resumes only now: without the order it would take one more turn.
    go_on(pid, still?)
    tell_guard({:told, pid})

    # A port whose owner has ended keeps its output until all is written, which may be never. A killed port
    # drops its output. The worker's own signal comes first, so that its exit reason stays. Where the worker
    # ends before the port is killed (1 of 100 times on a busy machine), only a socket drops its output.
    Enum.each(ports, &Process.exit(&1, :kill))

    if Process.alive?(pid) do
      receive do
        {:DOWN, ^ref, :process, ^pid, _} -> true
      after
        grace_ms -> by_force(pid)
      end
    end

    :ok
  end

  # A link does not end a process that traps exits; see OOM.Leftovers.
  defp by_force(pid) do
    Process.exit(pid, :kill)
    Process.alive?(pid)
  end
end
