defmodule OOM.Tree.Newborns do
  @moduledoc false
  # Finds the workers that have just come below supervisors of dynamic children, for the throttle: by the links of the
  # supervisors.
  #
  # A walk (OOM.Tree.Walk) reads from each new process, and waits for those that run. Eighty requests came at once and
  # took 1.5 GB/s; a walk that began in the first tenth of a second knew none of them 200 ms later. A supervisor waits
  # for a message most of the time, so its links are read without a signal, and nothing is asked of the child.
  #
  # The new process may be no worker after all. The throttle has suspended it then, and a process that stands answers at
  # once: what is no worker goes on after a moment.

  alias OOM.{Bonds, Tables, Tree, Units, Victims, Workers}
  alias OOM.Tree.Role

  # Among more processes, or supervisors, reading all links takes longer than a stand. The walks find the workers then.
  @most_processes 30_000
  @most_supervisors 10_000
  # Readers at a time. A supervisor that is starting a child holds up its reader; the others go on.
  @readers 4

  @doc "Begins a search; the caller is sent `{:release, pids}` for processes that turn out to be no workers."
  @spec start() :: pid()
  def start do
    throttle = self()
    :erlang.spawn_opt(fn -> Tables.while_there(fn -> read(throttle) end) end, priority: :max)
  end

  defp read(throttle) do
    mark = mark()
    supervisors = List.to_tuple(supervisors())
    next = :atomics.new(1, signed: false)

    # The throttle needs the workers at once, and the second look may take longer.
    look = fn -> supervisors |> find(next, mark) |> release(throttle) end
    reader = fn -> Tables.while_there(look) end

    for _ <- 1..min(@readers, tuple_size(supervisors))//1,
        do: :erlang.spawn_opt(reader, priority: :max)

    :ok
  end

  defp release(found, throttle) do
    others = check(found)
    if others != [], do: send(throttle, {:release, others})
  end

  @doc """
  Marks this moment by a process that ends at once: processes are numbered in the order of their birth. Called about
  once a second, also at rest.
  """
  @spec put_mark() :: true
  def put_mark do
    {_before, last} = Tables.marks()
    Tables.put_marks({last, spawn(fn -> :ok end)})
  end

  # The mark before the last is one or two seconds old.
  defp mark, do: elem(Tables.marks(), 0)

  @doc "Returns the supervisors whose new children are workers: none where there are too many to look at."
  @spec supervisors() :: [pid()]
  def supervisors do
    if :erlang.system_info(:process_count) > @most_processes,
      do: [],
      else: Tree.dynamic(@most_supervisors)
  end

  defp find(supervisors, next, mark) do
    case :atomics.add_get(next, 1, 1) do
      n when n > tuple_size(supervisors) -> []
      n -> children(elem(supervisors, n - 1), mark) ++ find(supervisors, next, mark)
    end
  end

  @doc """
  Registers the new processes linked with a supervisor of dynamic children as workers; returns them. What a process
  holds that was born after the `mark` was taken since.
  """
  @spec children(pid(), pid() | nil) :: [{pid(), supervisor :: pid()}]
  def children(supervisor, mark) do
    options = Tree.options(supervisor)
    rank = Tree.rank(options)

    if rank == :protected or options[:inside_unit] == true do
      []
    else
      for pid <- linked(supervisor), new?(pid) do
        Workers.found(pid, rank, supervisor, mark != nil and pid > mark)
        {pid, supervisor}
      end
    end
  end

  defp linked(supervisor) do
    case :erlang.process_info(supervisor, :links) do
      {_, links} -> for pid <- links, is_pid(pid) and node(pid) == node(), do: pid
      :undefined -> []
    end
  end

  defp new?(pid),
    do: not Workers.member?(pid) and Tree.kind(pid) == nil and not Victims.marked?(pid)

  @doc """
  Looks at the processes found, now that they stand: a supervisor gets a row in the tree, a worker the rank of the
  supervisor's rules and bonds. Returns those that must not stand.
  """
  @spec check([{pid(), supervisor :: pid()}]) :: [pid()]
  def check(found),
    do: for({pid, supervisor} <- found, not worker?(pid, Tree.lookup(supervisor)), do: pid)

  # The supervisor has ended, and its children with it.
  defp worker?(_pid, nil), do: true

  defp worker?(pid, {supervisor, _, _, options, facts}) do
    # Anything may be linked with a supervisor.
    if Tree.parent(pid) == supervisor do
      options = Role.ruled(options, pid, facts)

      case Role.of(pid, nil) do
        role when role in [:supervisor, :special] ->
          Tree.put_new(pid, role, supervisor, options)
          Workers.delete(pid)
          false

        role ->
          ranked(pid, Role.rank(role, Tree.rank(options)), facts)
      end
    else
      Workers.delete(pid)
      false
    end
  end

  defp ranked(pid, rank, facts) do
    # The worker may have registered itself meanwhile.
    if Workers.declared(pid) == nil, do: Workers.rerank(pid, rank)
    # A process that awaits a task ends with the task.
    if facts == :tasks, do: Units.bind(pid, Bonds.rank(pid))
    Workers.rank(pid) != :protected
  end
end
