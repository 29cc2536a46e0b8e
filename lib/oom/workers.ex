defmodule OOM.Workers do
  @moduledoc false
  # The registered workers: who they are, what they hold, what they are worth. A row is written by
  # the worker itself (`OOM.set_priority/1`), by its supervisor (OOM.Child) and by the probes; the
  # guard only reads. Nobody waits for anybody.
  #
  # Every function takes concurrent writers for granted: the plan may hold a key that no longer
  # matches its row, so whoever picks a victim checks the key against the row (OOM.VictimQueue).

  alias OOM.{Asker, HeapCaps, Level, Plan, Steps, Tree, Units}

  @rank 2
  @bytes 3
  @sampled 4
  @state 5
  @supervisor 6
  @work 9

  # `:busy`: its figure is fresh and small, and it works hard. What it works on need not be in the
  # figure. `:stale`: it does not answer.
  @type state :: :new | :fresh | :busy | :stale
  @typedoc "Reductions and time at the last look, and what was found then; see OOM.Probe."
  @type work ::
          {reductions :: non_neg_integer(), at_ms :: integer(), found :: map()}
          | {:born, at_ms :: integer(), episode :: non_neg_integer()}
  @type row ::
          {pid(), OOM.Priority.rank(), bytes :: non_neg_integer(), sampled_ms :: integer() | nil,
           state(), supervisor :: pid() | nil, id :: term(), options :: keyword(), work() | nil}

  # How a row says that nobody declared anything for it, and OOM.Tree.Walk found it.
  @found [found: true]

  @doc "A priority declared by the worker or for it; it wins over what the supervisor said."
  @spec declare(pid(), OOM.Priority.rank()) :: :ok
  def declare(pid, rank) do
    if member?(pid),
      do: declare_again(pid, rank),
      else: declare_new(pid, rank, Tree.Place.above(pid))
  end

  # What is in a unit lives and dies with it, and is no worker.
  defp declare_new(_pid, _rank, :unit), do: :ok

  defp declare_new(pid, rank, _above) do
    supervisor = supervisor(pid)
    Tree.Place.met(supervisor)

    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, nil, [], nil}),
      do: appeared(pid, rank),
      else: declare_again(pid, rank)
  end

  defp declare_again(pid, rank) do
    # No longer what its supervisor's was: a walk does not set it again.
    with [row] when elem(row, 7) == @found <- :ets.lookup(__MODULE__, pid),
         do: :ets.update_element(__MODULE__, pid, {@supervisor + 2, []})

    rerank(pid, Units.declared(pid, rank))
  end

  # In most cases; asked only by the worker itself, where it costs nothing.
  defp supervisor(pid), do: if(pid == self(), do: Tree.parent(pid))

  @doc "The rank the guard goes by, whatever was declared; see OOM.Units."
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

  @doc "One that was found below a supervisor, and about which nobody has said anything."
  @spec found(pid(), OOM.Priority.rank(), pid()) :: :ok
  def found(pid, rank, supervisor) do
    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, nil, @found, nil}),
      do: appeared(pid, rank),
      else: :ok
  end

  @doc "What a supervisor knows of the child it has just started."
  @spec attach(pid(), OOM.Priority.rank(), pid(), term(), keyword()) :: :ok
  def attach(pid, rank, supervisor, id, options) do
    if :ets.insert_new(__MODULE__, {pid, rank, 0, nil, :new, supervisor, id, options, born()}) do
      appeared(pid, rank)
    else
      # It may have been found before its supervisor could say so.
      with [row] when elem(row, 7) == @found <- :ets.lookup(__MODULE__, pid),
           do: declare(pid, rank)

      :ets.update_element(__MODULE__, pid, [
        {@supervisor, supervisor},
        {@supervisor + 1, id},
        {@supervisor + 2, options}
      ])

      # It spoke for itself while it started.
      with [row] when elem(row, @sampled - 1) == nil <- :ets.lookup(__MODULE__, pid),
           do: :ets.update_element(__MODULE__, pid, {@work, born()})

      :ok
    end
  end

  # Whatever it holds at its first look it has taken since. Of one that was found, or that speaks for
  # itself later, nobody knows when it began.
  defp born, do: {:born, System.monotonic_time(:millisecond), Level.episode()}

  # In the plan from the first moment: what has not been looked at yet may be what grows.
  defp appeared(pid, rank) do
    Plan.put(pid, {rank, 0})
    OOM.Accountant.watch(pid)
  end

  @doc "A new figure from a probe."
  @spec sampled(pid(), non_neg_integer(), integer(), state()) :: :ok
  def sampled(pid, bytes, now_ms, state) do
    with [{_, rank, old, _, _, _, _, _, _}] <- :ets.lookup(__MODULE__, pid) do
      row = [{@bytes, bytes}, {@sampled, now_ms}, {@state, state}]
      update = fn -> :ets.update_element(__MODULE__, pid, row) end
      Plan.move(pid, {rank, old}, {rank, bytes}, update)
    end

    :ok
  end

  @doc "What the probe has to know at its next look. Nobody ranks by it."
  @spec worked(pid(), work()) :: boolean()
  def worked(pid, work), do: :ets.update_element(__MODULE__, pid, {@work, work})

  @doc "What the probe remembers of its last look, and the figure since."
  @spec last_look(pid()) :: {work() | nil, non_neg_integer()}
  def last_look(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [row] -> {elem(row, @work - 1), elem(row, @bytes - 1)}
      [] -> {nil, 0}
    end
  end

  @doc """
  Marks a worker that does not answer its probe. It keeps its last figure, raised by what it may
  have grown since: one that is too busy to answer is more often the leak than not.
  """
  @spec stale(pid(), non_neg_integer(), integer()) :: :ok
  def stale(pid, grown_bytes, now_ms) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, bytes, _, _, _, _, _, _}] -> sampled(pid, bytes + grown_bytes, now_ms, :stale)
      [] -> :ok
    end
  end

  @spec delete(pid()) :: :ok
  # First its row: whoever writes about it elsewhere looks afterwards whether that is still there.
  def delete(pid) do
    with [{_, rank, bytes, _, _, _, _, _, _}] <- :ets.take(__MODULE__, pid),
         do: Plan.delete(pid, {rank, bytes})

    Steps.delete(pid)
    HeapCaps.forget(pid)
    Asker.forget(pid)
  end

  @doc """
  Takes out one that is to be killed: nobody picks it again. What else is known of it is forgotten at its
  end; it may be spared.
  """
  @spec take(pid()) :: row() | nil
  def take(pid) do
    with [{_, rank, bytes, _, _, _, _, _, _} = row] <- :ets.take(__MODULE__, pid) do
      Plan.delete(pid, {rank, bytes})
      Steps.delete(pid)
      row
    else
      [] -> nil
    end
  end

  @doc "One that was taken out is spared: it is back, with the rank it has now."
  @spec put_back(row(), OOM.Priority.rank()) :: :ok
  def put_back({pid, _rank, bytes, _, _, _, _, _, _} = row, rank) do
    # It may have told of itself in the meantime.
    if :ets.insert_new(__MODULE__, put_elem(row, @rank - 1, rank)),
      do: Plan.put(pid, {rank, bytes}),
      else: rerank(pid, rank)

    # The accountant has heard of its end already.
    if Process.alive?(pid), do: :ok, else: delete(pid)
  end

  @spec lookup(pid()) :: row() | nil
  def lookup(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [row] -> row
      [] -> nil
    end
  end

  @doc "Those of one rank that a supervisor has started, with what they hold; looks at all there are."
  @spec of(pid(), OOM.Priority.rank()) :: [{pid(), non_neg_integer()}]
  def of(supervisor, rank) do
    row = {:"$1", rank, :"$2", :_, :_, supervisor, :_, :_, :_}
    :ets.select(__MODULE__, [{row, [], [{{:"$1", :"$2"}}]}])
  end

  @doc "Cheaper than to look it up."
  @spec member?(pid()) :: boolean()
  def member?(pid), do: :ets.member(__MODULE__, pid)

  @spec rank(pid()) :: OOM.Priority.rank() | nil
  def rank(pid) do
    :ets.lookup_element(__MODULE__, pid, @rank)
  rescue
    # It has ended.
    ArgumentError -> nil
  end

  @doc "The rank it has declared, or that was declared for it; `nil` for one that was only found."
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

  @doc "All pids, `chunk` at a time: `{pids, continuation}` or `:done`."
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
