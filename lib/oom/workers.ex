defmodule OOM.Workers do
  @moduledoc false
  # The registered workers, with supervisor, memory and rank. A row is written by the worker itself
  # (`OOM.set_priority/1`), by its supervisor (OOM.Child) and by the probes; the guard only reads. No
  # writer waits for another.
  #
  # Every function takes concurrent writers for granted: the plan may hold a key that no longer matches
  # the row, so OOM.VictimQueue checks the key of a victim against the row.

  alias OOM.{Asker, Charges, HeapCaps, Level, Newcomers, Plan, Steps, Tree, Units}

  @rank 2
  @bytes 3
  @sampled 4
  @state 5
  @supervisor 6
  @work 9

  # `:busy`: the figure is fresh and small, and the worker works hard; the figure need not cover the data
  # worked on. `:stale`: the worker does not answer.
  @type state :: :new | :fresh | :busy | :stale
  @typedoc "Reductions, time and findings of the last look; see OOM.Probe."
  @type work ::
          {reductions :: non_neg_integer(), at_ms :: integer(), found :: map()}
          | {:born, at_ms :: integer(), episode :: non_neg_integer()}
  @type row ::
          {pid(), OOM.Priority.rank(), bytes :: non_neg_integer(), sampled_ms :: integer() | nil,
           state(), supervisor :: pid() | nil, id :: term(), options :: keyword(), work() | nil}

  # The options of a row without a declared rank, found by OOM.Tree.Walk.
  @found [found: true]

  @doc "Registers a priority declared by or for the worker; a declared priority wins over the supervisor's."
  @spec declare(pid(), OOM.Priority.rank()) :: :ok
  def declare(pid, rank) do
    if member?(pid),
      do: declare_again(pid, rank),
      else: declare_new(pid, rank, Tree.Place.above(pid))
  end

  # A process inside a unit lives and dies with the unit, and is no worker.
  defp declare_new(_pid, _rank, :unit), do: :ok

  defp declare_new(pid, rank, _above) do
    supervisor = supervisor(pid)
    Tree.Place.met(supervisor)

    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, nil, [], nil}),
      do: appeared_new(pid, rank),
      else: declare_again(pid, rank)
  end

  defp declare_again(pid, rank) do
    # A declared rank replaces the one inherited from the supervisor: no walk sets the row again.
    with [row] when elem(row, 7) == @found <- :ets.lookup(__MODULE__, pid),
         do: :ets.update_element(__MODULE__, pid, {@supervisor + 2, []})

    rerank(pid, Units.declared(pid, rank))
  end

  # The parent is the supervisor in most cases. Only the worker itself is asked, where asking costs nothing.
  defp supervisor(pid), do: if(pid == self(), do: Tree.parent(pid))

  @doc "Sets the rank the guard ranks by, whatever was declared; see OOM.Units."
  @spec rerank(pid(), OOM.Priority.rank()) :: :ok
  def rerank(pid, rank) do
    with [{_, old, bytes, _, _, _, _, _, _}] when old != rank <- :ets.lookup(__MODULE__, pid) do
      Plan.move(pid, {old, bytes}, {rank, bytes}, fn ->
        :ets.update_element(__MODULE__, pid, {@rank, rank})
      end)

      HeapCaps.reranked(pid, rank)
    end

    :ok
  end

  @doc """
  Registers a worker found below a supervisor, without a declared priority: `:born` just now, a `:newcomer` of the last
  seconds, or of unknown age.
  """
  @spec found(pid(), OOM.Priority.rank(), pid(), :born | :newcomer | :unknown) :: :ok
  def found(pid, rank, supervisor, age \\ :unknown) do
    work = if age == :born, do: born()

    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, nil, @found, work}) do
      if age != :unknown, do: Newcomers.note(pid, age)
      appeared(pid, rank)
    else
      :ok
    end
  end

  @doc "Registers a child just started, with its supervisor, id and options."
  @spec attach(pid(), OOM.Priority.rank(), pid(), term(), keyword()) :: :ok
  def attach(pid, rank, supervisor, id, options) do
    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, id, options, born()}) do
      appeared_new(pid, rank)
    else
      # A walk may have found the child before the supervisor registered it.
      with [row] when elem(row, 7) == @found <- :ets.lookup(__MODULE__, pid),
           do: declare(pid, rank)

      :ets.update_element(__MODULE__, pid, [
        {@supervisor, supervisor},
        {@supervisor + 1, id},
        {@supervisor + 2, options}
      ])

      # The child registered itself during the start.
      with [row] when elem(row, @sampled - 1) == nil <- :ets.lookup(__MODULE__, pid),
           do: :ets.update_element(__MODULE__, pid, {@work, born()})

      :ok
    end
  end

  # All memory found at the first look was taken since the start. The start of a found worker, or of a worker
  # registering itself later, is unknown.
  defp born, do: {:born, System.monotonic_time(:millisecond), Level.episode()}

  # A worker registers itself when it starts, with few exceptions.
  defp appeared_new(pid, rank) do
    Newcomers.note(pid)
    appeared(pid, rank)
  end

  # The worker enters the plan at once: a worker not yet measured may be the one growing.
  defp appeared(pid, rank) do
    Plan.put(pid, {rank, 0})
    OOM.Accountant.watch(pid)
  end

  @doc "Sets a new figure from a probe, in bytes."
  @spec sampled(pid(), non_neg_integer(), integer(), state()) :: :ok
  def sampled(pid, bytes, now_ms, state) do
    with [{_, rank, old, _, _, _, _, _, _}] <- :ets.lookup(__MODULE__, pid) do
      row = [{@bytes, bytes}, {@sampled, now_ms}, {@state, state}]
      update = fn -> :ets.update_element(__MODULE__, pid, row) end
      Plan.move(pid, {rank, old}, {rank, bytes}, update)
    end

    :ok
  end

  @doc "Stores the findings of a look for the probe's next look. The rank does not depend on them."
  @spec worked(pid(), work()) :: boolean()
  def worked(pid, work), do: :ets.update_element(__MODULE__, pid, {@work, work})

  @doc "Returns the findings of the last look, the figure in bytes, and the rank."
  @spec last_look(pid()) :: {work() | nil, non_neg_integer(), OOM.Priority.rank() | nil}
  def last_look(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [row] -> {elem(row, @work - 1), elem(row, @bytes - 1), elem(row, @rank - 1)}
      [] -> {nil, 0, nil}
    end
  end

  @doc """
  Marks a worker that does not answer a probe. The last figure stays, raised by the possible growth since:
  a worker too busy to answer is more often the leak than not.
  """
  @spec stale(pid(), non_neg_integer(), integer()) :: :ok
  def stale(pid, grown_bytes, now_ms) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, bytes, _, _, _, _, _, _}] -> sampled(pid, bytes + grown_bytes, now_ms, :stale)
      [] -> :ok
    end
  end

  @spec delete(pid()) :: :ok
  # The row goes first: a writer in another table checks afterwards whether the row is still there.
  def delete(pid) do
    with [{_, rank, bytes, _, _, _, _, _, _}] <- :ets.take(__MODULE__, pid),
         do: Plan.delete(pid, {rank, bytes})

    Steps.delete(pid)
    Charges.delete(pid)
    HeapCaps.forget(pid)
    Asker.forget(pid)
  end

  @doc """
  Takes a victim out of table and plan, so that no other choice picks the worker again; returns the row.
  Other tables keep their rows until the victim's end, because the victim may be spared.
  """
  @spec take(pid()) :: row() | nil
  def take(pid) do
    with [{_, rank, bytes, _, _, _, _, _, _} = row] <- :ets.take(__MODULE__, pid) do
      Plan.delete(pid, {rank, bytes})
      Steps.delete(pid)
      Charges.delete(pid)
      row
    else
      [] -> nil
    end
  end

  @doc "Puts a spared victim back, with a new rank."
  @spec put_back(row(), OOM.Priority.rank()) :: :ok
  def put_back({pid, _rank, bytes, _, _, _, _, _, _} = row, rank) do
    # The worker may have registered itself in the meantime.
    if :ets.insert_new(__MODULE__, put_elem(row, @rank - 1, rank)),
      do: Plan.put(pid, {rank, bytes}),
      else: rerank(pid, rank)

    # Of a worker that ended meanwhile, the accountant has had the `:DOWN` already.
    if Process.alive?(pid), do: :ok, else: delete(pid)
  end

  @spec lookup(pid()) :: row() | nil
  def lookup(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [row] -> row
      [] -> nil
    end
  end

  @doc "Deletes a supervisor's workers without a declared rank: the next walk finds them anew."
  @spec forget_found(pid()) :: :ok
  def forget_found(supervisor) do
    row = {:"$1", :_, :_, :_, :_, supervisor, :_, @found, :_}
    for pid <- :ets.select(__MODULE__, [{row, [], [:"$1"]}]), do: delete(pid)
    :ok
  end

  @doc "Returns a supervisor's workers of one rank with their bytes; scans the whole table."
  @spec of(pid(), OOM.Priority.rank()) :: [{pid(), non_neg_integer()}]
  def of(supervisor, rank) do
    row = {:"$1", rank, :"$2", :_, :_, supervisor, :_, :_, :_}
    :ets.select(__MODULE__, [{row, [], [{{:"$1", :"$2"}}]}])
  end

  @doc "Returns the supervisor of a worker; `nil` where none is known, and for any other process."
  @spec supervisor_of(pid()) :: pid() | nil
  def supervisor_of(pid) do
    case lookup(pid) do
      nil -> nil
      row -> elem(row, @supervisor - 1)
    end
  rescue
    # The application is stopped.
    ArgumentError -> nil
  end

  @doc "Tells whether a process is registered; cheaper than a lookup."
  @spec member?(pid()) :: boolean()
  def member?(pid), do: :ets.member(__MODULE__, pid)

  @spec rank(pid()) :: OOM.Priority.rank() | nil
  def rank(pid) do
    :ets.lookup_element(__MODULE__, pid, @rank)
  rescue
    # The worker has ended.
    ArgumentError -> nil
  end

  @doc "Returns the rank declared by or for the worker; `nil` for a worker only found."
  @spec declared(pid()) :: OOM.Priority.rank() | nil
  def declared(pid) do
    case lookup(pid) do
      nil -> nil
      row when elem(row, 7) == @found -> nil
      row -> elem(row, 1)
    end
  end

  @spec count() :: non_neg_integer()
  def count, do: :ets.info(__MODULE__, :size)

  @doc "Returns all pids, `chunk` at a time: `{pids, continuation}` or `:done`."
  @spec pids(pos_integer() | term()) :: {[pid()], term()} | :done
  def pids(chunk) when is_integer(chunk),
    do:
      chunked(
        :ets.select(__MODULE__, [{{:"$1", :_, :_, :_, :_, :_, :_, :_, :_}, [], [:"$1"]}], chunk)
      )

  def pids(continuation), do: chunked(:ets.select(continuation))

  defp chunked(:"$end_of_table"), do: :done
  defp chunked({pids, continuation}), do: {pids, continuation}
end
