defmodule OOM.Tree.Newborns do
  @moduledoc false
  # Finds the workers that have just come below supervisors of dynamic children, for the throttle: by the links of the
  # supervisors.
  #
  # A walk (OOM.Tree.Walk) reads from each new process, and waits for the new processes that run. Eighty requests came at
  # once and took 1.5 GB/s; a walk that began in the first tenth of a second knew none of the eighty 200 ms later. A
  # supervisor waits for a message most of the time, so the VM reads its links without a signal, and asks no child.
  #
  # A supervisor with rules of priority (OOM.adopt/2) is left to the walks: a rule may protect the child.
  #
  # A new process may be no worker after all. The throttle suspends the process all the same, and the second look
  # (`check/1`), at suspended processes, tells the throttle to let such a process go on.

  alias OOM.{Bonds, Tables, Tree, Units, Victims, Workers}
  alias OOM.Tree.{Role, Start}

  # Among more processes, or supervisors, reading all links takes longer than a stand. The walks find the workers then.
  @most_processes 30_000
  @most_supervisors 10_000
  # Readers at a time. A supervisor that is starting a child holds up its reader; the others go on.
  @readers 4

  @typedoc "How many readers are at work."
  @type searches :: :atomics.atomics_ref()

  @spec searches() :: searches()
  def searches, do: :atomics.new(1, signed: true)

  @doc """
  Begins a search, unless the readers of earlier searches are still held up; the caller is sent `{:release, pids}` for
  processes that must not stand. With `recent?` the last search was just now, so what a new worker holds was taken since.
  """
  @spec start(searches(), boolean()) :: :ok
  def start(searches, recent?) do
    throttle = self()

    _ =
      if :atomics.get(searches, 1) <= @readers do
        :atomics.add(searches, 1, @readers)
        read = fn -> Tables.while_there(fn -> read(throttle, searches, recent?) end) end
        :erlang.spawn_opt(read, priority: :max)
      end

    :ok
  end

  defp read(throttle, searches, recent?) do
    supervisors = List.to_tuple(supervisors())
    next = :atomics.new(1, signed: false)

    reader = fn ->
      # The workers are registered before the second look, because the second look may wait.
      Tables.while_there(fn -> supervisors |> find(next, recent?) |> release(throttle) end)
      :atomics.sub(searches, 1, 1)
    end

    _pids = for _ <- 1..@readers, do: :erlang.spawn_opt(reader, priority: :max)
    :ok
  end

  defp release(found, throttle) do
    others = check(found)
    if others != [], do: send(throttle, {:release, others})
  end

  @doc "Returns the supervisors whose new children are workers: none where there are too many to look at."
  @spec supervisors() :: [pid()]
  def supervisors do
    if :erlang.system_info(:process_count) > @most_processes,
      do: [],
      else: Tree.dynamic(@most_supervisors)
  end

  defp find(supervisors, next, recent?) do
    case :atomics.add_get(next, 1, 1) do
      n when n > tuple_size(supervisors) -> []
      n -> children(elem(supervisors, n - 1), recent?) ++ find(supervisors, next, recent?)
    end
  end

  @doc "Registers the new processes linked with a supervisor of dynamic children as workers; returns them."
  @spec children(pid(), boolean()) :: [{pid(), supervisor :: pid()}]
  def children(supervisor, recent?) do
    case Tree.lookup(supervisor) do
      {_, _, parent, options, _} ->
        rank = Tree.rank(options)

        ours? =
          rank != :protected and options[:inside_unit] != true and
            options[:priorities] in [nil, []]

        if ours?, do: children(supervisor, parent, rank, recent?), else: []

      nil ->
        []
    end
  end

  defp children(supervisor, parent, rank, recent?) do
    for pid <- linked(supervisor), pid != parent and new?(pid) do
      Workers.found(pid, rank, supervisor, if(recent?, do: :born, else: :newcomer))
      {pid, supervisor}
    end
  end

  defp linked(supervisor) do
    case :erlang.process_info(supervisor, :links) do
      {_, links} -> for pid <- links, is_pid(pid) and node(pid) == node(), do: pid
      :undefined -> []
    end
  end

  defp new?(pid) do
    not (Workers.member?(pid) or Victims.marked?(pid)) and Tree.kind(pid) == nil and
      not Tree.stranger?(pid)
  end

  @doc """
  Looks at the processes found, once the throttle has suspended the processes: a supervisor gets a row in the tree, a
  task the rank of the process that awaits the task. Returns the processes that must not stand: supervisors, children in
  their start (the supervisor waits for such a child), and processes that are linked with the supervisor and no child.
  """
  @spec check([{pid(), supervisor :: pid()}]) :: [pid()]
  def check(found),
    do: for({pid, supervisor} <- found, not worker?(pid, Tree.lookup(supervisor)), do: pid)

  # The supervisor has ended, and the children end with the supervisor.
  defp worker?(_pid, nil), do: true

  defp worker?(pid, {supervisor, _, _, options, facts}) do
    cond do
      Tree.parent(pid) != supervisor ->
        Tree.put_stranger(pid)
        forget(pid)

      # The next search finds the child again.
      Start.under_way?(pid, supervisor) ->
        forget(pid)

      true ->
        placed?(pid, Role.of(pid, nil), {supervisor, options, facts})
    end
  end

  defp placed?(pid, role, {supervisor, options, _facts}) when role in [:supervisor, :special] do
    Tree.put_new(pid, role, supervisor, options)
    forget(pid)
  end

  defp placed?(pid, role, {_supervisor, options, facts}) do
    # The worker may have registered itself meanwhile.
    if Workers.declared(pid) == nil,
      do: Workers.rerank(pid, Role.rank(role, Tree.rank(options)))

    # A process that awaits a task ends with the task.
    if facts == :tasks, do: Units.bind(pid, Bonds.rank(pid))
    Workers.rank(pid) != :protected
  end

  # A priority that the process has declared stays.
  defp forget(pid) do
    if Workers.declared(pid) == nil, do: Workers.delete(pid)
    false
  end
end
