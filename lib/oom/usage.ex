defmodule OOM.Usage do
  @moduledoc """
  The memory of a worker, as `OOM.top/1` and `OOM.tree/1` return it: the figures the guard ranks by.

    * `:pid`, `:name` - the worker, and its registered name or `nil`
    * `:supervisor`, `:id` - the worker's supervisor and the child id there, as far as known
    * `:priority` - `:low`, `:normal`, `:high`, `:protected` or an integer
    * `:bytes` - the known size of the worker, freed by its end: the sum of the following fields
    * `:own_bytes` - heap, stack, mailbox, and off-heap binaries (each divided among its holders, where the
      worker was asked for them; else as the VM's virtual heap counts binaries)
    * `:tables_bytes` - ETS tables owned by the worker
    * `:ports_bytes` - output waiting in the worker's ports and sockets
    * `:children_bytes` - processes started by the worker that count for no other worker
    * `:age_ms` - the age of the figure; `nil` for a worker not measured yet. Up to a minute
      while the level is `:normal` and memory stands still, tens of ms under pressure
    * `:state` - `:fresh`, `:busy` (fresh, small and working hard), `:stale` (the worker does not answer; the
      figure is an estimate) or `:new`
  """

  alias OOM.{Owned, Priority, Workers}

  @enforce_keys [
    :pid,
    :name,
    :supervisor,
    :id,
    :priority,
    :bytes,
    :own_bytes,
    :tables_bytes,
    :ports_bytes,
    :children_bytes,
    :age_ms,
    :state
  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          pid: pid(),
          name: atom() | nil,
          supervisor: pid() | nil,
          id: term(),
          priority: OOM.priority(),
          bytes: non_neg_integer(),
          own_bytes: non_neg_integer(),
          tables_bytes: non_neg_integer(),
          ports_bytes: non_neg_integer(),
          children_bytes: non_neg_integer(),
          age_ms: non_neg_integer() | nil,
          state: :new | :fresh | :busy | :stale
        }

  @chunk 1_000

  @doc false
  @spec top(pos_integer()) :: [t()]
  def top(count) do
    fn best, {pid, bytes, _} -> insert(best, {bytes, pid}, count) end
    |> fold(:gb_sets.new())
    |> :gb_sets.to_list()
    |> Enum.reverse()
    |> from_pids()
  end

  @doc false
  # The `count` largest.
  @spec insert(:gb_sets.set(), {non_neg_integer(), pid()}, pos_integer()) :: :gb_sets.set()
  def insert(best, entry, count) do
    cond do
      :gb_sets.size(best) < count ->
        :gb_sets.add(entry, best)

      entry > :gb_sets.smallest(best) ->
        :gb_sets.add(entry, elem(:gb_sets.take_smallest(best), 1))

      true ->
        best
    end
  end

  @doc false
  # Over `{pid, bytes, supervisor}` of all workers, a chunk at a time.
  @spec fold((acc, {pid(), non_neg_integer(), pid() | nil} -> acc), acc) :: acc when acc: term()
  def fold(fun, acc) do
    row = {:"$1", :_, :"$2", :_, :_, :"$3", :_, :_, :_}
    chunks(:ets.select(Workers, [{row, [], [{{:"$1", :"$2", :"$3"}}]}], @chunk), fun, acc)
  end

  defp chunks(:"$end_of_table", _fun, acc), do: acc

  defp chunks({rows, continuation}, fun, acc) do
    acc = Enum.reduce(rows, acc, &fun.(&2, &1))
    chunks(:ets.select(continuation), fun, acc)
  end

  @doc false
  @spec from_pids([{non_neg_integer(), pid()}]) :: [t()]
  def from_pids(entries) do
    now = System.monotonic_time(:millisecond)
    for {_, pid} <- entries, row = Workers.lookup(pid), do: from_row(row, now)
  end

  defp from_row({pid, rank, bytes, sampled, state, supervisor, id, _options, _work}, now) do
    tables = Owned.bytes(pid, :tables)
    ports = Owned.bytes(pid, :ports)
    children = Owned.bytes(pid, :children)

    %__MODULE__{
      pid: pid,
      name: name(pid),
      supervisor: supervisor,
      id: id,
      priority: Priority.name(rank),
      bytes: bytes,
      # The tables, ports and children may have been read again since.
      own_bytes: max(bytes - tables - ports - children, 0),
      tables_bytes: tables,
      ports_bytes: ports,
      children_bytes: children,
      age_ms: sampled && now - sampled,
      state: state
    }
  end

  @doc false
  @spec name(pid()) :: atom() | nil
  def name(pid) do
    case :erlang.process_info(pid, :registered_name) do
      {:registered_name, name} -> name
      _ -> nil
    end
  end
end
