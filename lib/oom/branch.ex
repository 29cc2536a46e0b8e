defmodule OOM.Branch do
  @moduledoc """
  A supervisor and the subtree below, as returned by `OOM.tree/1`.

    * `:pid`, `:name` - the supervisor, and its registered name or `nil`. Both are `nil` for the last
      branch of all: workers that registered themselves under supervisors outside any `OOM.Supervisor`
    * `:kind` - `:oom` for an `OOM.Supervisor`, `:supervisor` for OTP's and Elixir's, `:special` for a
      supervisor with a loop of its own, `:unit` for a subtree killed as a whole, `:unknown` for a
      supervisor not looked at yet
    * `:priority` - the priority of the workers below, unless declared otherwise there
    * `:bytes`, `:workers_count` - the bytes and the number of all workers in the subtree
    * `:workers` - the supervisor's heaviest workers, as `OOM.Usage`, the heaviest first
    * `:held` - the supervisor's held children, as `OOM.Held`
    * `:branches` - the supervisors directly below, the heaviest first
  """

  alias OOM.{Held, Priority, Tree, Usage, Workers}

  @enforce_keys [
    :pid,
    :name,
    :kind,
    :priority,
    :bytes,
    :workers_count,
    :workers,
    :held,
    :branches
  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          pid: pid() | nil,
          name: atom() | nil,
          kind: :oom | :supervisor | :special | :unit | :unknown | nil,
          priority: OOM.priority() | nil,
          bytes: non_neg_integer(),
          workers_count: non_neg_integer(),
          workers: [Usage.t()],
          held: [Held.t()],
          branches: [t()]
        }

  @kinds [:oom, :supervisor, :special, :unit, :unknown]

  @doc false
  @spec all(pos_integer()) :: [t()]
  def all(count) do
    rows = for {_, kind, _, _, _} = row <- Tree.all(), kind in @kinds, do: row
    known = MapSet.new(rows, &elem(&1, 0))
    own = Usage.fold(&add(&1, &2, known, count), %{})
    held = Enum.group_by(OOM.held(), & &1.supervisor)
    below = Enum.group_by(rows, &if(elem(&1, 2) in known, do: elem(&1, 2)))
    facts = %{own: own, held: held, below: below}
    sorted(Enum.map(Map.get(below, nil, []), &branch(&1, facts))) ++ elsewhere(own[nil])
  end

  # A unit is a worker too, and is listed in its own branch. A process of a pool is listed beside the pool.
  defp add(own, {pid, bytes, above}, known, count) do
    supervisor = Enum.find([pid, above], &(&1 in known)) || beside(above, known)
    {number, sum, best} = Map.get(own, supervisor, {0, 0, :gb_sets.new()})
    best = Usage.insert(best, {bytes, pid}, count)
    Map.put(own, supervisor, {number + 1, sum + bytes, best})
  end

  defp beside(pool, known) do
    supervisor = pool && Workers.supervisor_of(pool)
    if supervisor in known, do: supervisor
  end

  defp branch({pid, kind, _parent, options, _}, %{own: own, held: held, below: below} = facts) do
    branches = below |> Map.get(pid, []) |> Enum.map(&branch(&1, facts)) |> sorted()
    {number, bytes, best} = Map.get(own, pid, {0, 0, :gb_sets.new()})

    %__MODULE__{
      pid: pid,
      name: Usage.name(pid),
      kind: kind,
      priority: options |> Tree.rank() |> Priority.name(),
      bytes: bytes + (branches |> Enum.map(& &1.bytes) |> Enum.sum()),
      workers_count: number + (branches |> Enum.map(& &1.workers_count) |> Enum.sum()),
      workers: usages(best),
      held: Map.get(held, pid, []),
      branches: branches
    }
  end

  defp elsewhere(nil), do: []

  defp elsewhere({number, bytes, best}) do
    [
      %__MODULE__{
        pid: nil,
        name: nil,
        kind: nil,
        priority: nil,
        bytes: bytes,
        workers_count: number,
        workers: usages(best),
        held: [],
        branches: []
      }
    ]
  end

  defp usages(best), do: best |> :gb_sets.to_list() |> Enum.reverse() |> Usage.from_pids()
  defp sorted(branches), do: Enum.sort_by(branches, & &1.bytes, :desc)
end
