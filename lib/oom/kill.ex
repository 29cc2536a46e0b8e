defmodule OOM.Kill do
  @moduledoc false
  # One throw-away process at top priority for each victim. An exit signal alone does not raise
  # the victim's priority, and would take effect only when its turn comes; asking whether it is
  # alive does. The question waits for a victim in a long collection, so the guard never asks.
  #
  # A supervisor that does not know us is told first (OOM.Visit): the message is in its mailbox
  # before the exit is, so however busy it is, it restarts nothing and counts nothing.
  #
  # Before that it is asked whom the exit would take along (OOM.Bonds): links and calls are made at any
  # time. Meanwhile the victim stands still, so that nothing is lost by it, neither time nor memory: the
  # question, the order to stand still and the exit all take effect when it is scheduled out.

  alias OOM.{Bonds, Guard, Owned, RecentKills, Reporter, Tree, Units, Victims, Visit, Workers}

  @reason {:shutdown, :memory_pressure}

  @doc """
  Marks it, so that its end is a crash to nobody, and takes it out of the plan at once: whoever keeps
  that may be late, and the dead free nothing.
  """
  @spec begin(pid(), pid() | nil, non_neg_integer(), integer(), pos_integer()) :: pid()
  def begin(pid, supervisor, bytes, now_ms, grace_ms) do
    Victims.mark(pid, now_ms, bytes)
    RecentKills.note(Workers.rank(pid), now_ms)
    start(Workers.take(pid), pid, supervisor, grace_ms)
  end

  defp start(row, pid, supervisor, grace_ms),
    do:
      :erlang.spawn_opt(__MODULE__, :spare_or_run, [row, pid, supervisor, grace_ms],
        priority: :max
      )

  @doc false
  @spec spare_or_run(Workers.row() | nil, pid(), pid() | nil, pos_integer()) :: :ok
  # Nobody knows what it was worth.
  def spare_or_run(nil, pid, supervisor, grace_ms), do: run(pid, supervisor, grace_ms)

  def spare_or_run(row, pid, supervisor, grace_ms) do
    rank = elem(row, 1)
    still? = stand_still(pid)
    bond = Bonds.at_kill(pid, supervisor)

    if Units.highest(rank, bond) == rank,
      do: run(pid, supervisor, grace_ms, still?),
      else: spare(row, bond, still?)
  end

  # The guard counts on what it holds, and must hear that it stays.
  defp spare(row, bond, still?) do
    {pid, rank} = {elem(row, 0), elem(row, 1)}
    Workers.put_back(row, Units.spare(pid, rank, bond))
    # A walk may have dropped that in between, as of nobody who is registered.
    Units.bind(pid, bond)
    Victims.unmark(pid)
    go_on(pid, still?)
    Reporter.spared(pid, elem(row, 6), bond)
    tell_guard({:spared, pid, bond})
  end

  defp tell_guard(message) do
    with guard when is_pid(guard) <- Process.whereis(Guard), do: send(guard, message)
    :ok
  end

  # One that waits for a message takes nothing meanwhile.
  defp stand_still(pid) do
    case :erlang.process_info(pid, :status) do
      {_, :waiting} -> false
      _ -> :erlang.suspend_process(pid, [:asynchronous])
    end
  rescue
    # It has ended.
    ArgumentError -> false
  end

  defp go_on(_pid, false), do: :ok

  defp go_on(pid, true) do
    _ = :erlang.resume_process(pid)
    :ok
  rescue
    # It has ended.
    ArgumentError -> :ok
  end

  @doc false
  @spec run(pid(), pid() | nil, pos_integer(), boolean()) :: :ok
  def run(pid, supervisor, grace_ms, still? \\ false) do
    ref = Process.monitor(pid)
    ports = Owned.ports(pid)
    Owned.Ports.drop_at_end(ports)
    if Tree.consents?(supervisor), do: Visit.take(supervisor, pid)
    unit? = Tree.kind(pid) == :unit

    # One that traps exits leaves for nobody but its parent, in whose name the order comes first. Our
    # signal is a message like any other to it: a GenServer would log it as one it does not expect,
    # or crash for it, and a crash formats the state: a multiple of what should be freed.
    if supervisor != nil, do: send(pid, {:EXIT, supervisor, @reason})
    Process.exit(pid, @reason)

    # One that traps exits leaves by itself, and must not be kept from it by the throttle; not before it
    # has its order, or it would take one more turn.
    go_on(pid, still?)
    tell_guard({:told, pid})
    # A port whose owner has ended keeps what it has to write until it is written, which may be
    # never; killed before, it drops it. The worker has its own signal first, and its reason; where it
    # is that quick that it ends before the port is killed (1 of 100 times on a busy machine), only a
    # socket drops it.
    Enum.each(ports, &Process.exit(&1, :kill))

    if Process.alive?(pid) do
      receive do
        {:DOWN, ^ref, :process, ^pid, _} -> true
      after
        grace_ms -> by_force(pid, unit?)
      end
    end

    :ok
  end

  defp by_force(pid, unit?) do
    # Whom it would have ended one by one; they are linked, but those that trap exits would stay.
    below = if unit?, do: Owned.Children.below(pid), else: []
    Process.exit(pid, :kill)
    Enum.each(below, &Process.exit(&1, :kill))
    Process.alive?(pid)
  end
end
