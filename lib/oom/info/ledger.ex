defmodule OOM.Ledger do
  @moduledoc """
  Whose the used memory is, as `OOM.snapshot/0` returns it in the field `:ledger`.

  These four amounts add up to `:used_bytes`, the working set of the snapshot:

    * `:workers_bytes` - the known memory of all workers, as in `OOM.top/1`. `:workers` divides the amount
      into `:own` (heaps, mailboxes and binaries), `:tables`, `:ports` and `:children`
    * `:vm_bytes` - all other memory that the VM has allocated: processes that are no workers and their
      tables, code, atoms, and the memory of workers that no figure shows. `:vm` is the VM's own account of all
      it has allocated, workers included: `:processes`, `:binary`, `:ets`, `:atom`, `:code` and `:system` (the
      rest: ports, timers, NIFs that use the VM's allocators)
    * `:unexplained_bytes` - resident memory of the VM beside its allocated blocks: carriers with freed blocks,
      stacks of threads, program text, NIFs with an allocator of their own
    * `:others_bytes` - the rest of the working set: other processes of the cgroup, files in a tmpfs, memory of
      the kernel

  `:growth_bytes_per_s` tells how fast each of the four grows, `%{workers: …, vm: …, unexplained: …,
  others: …}`, since a ledger at least half a second older; `nil` in the first ledger. `:age_ms` is the age of
  the ledger: a ledger asks all schedulers and adds up all workers, so a new one is made at most once a second.

  The figure of a worker is up to a minute old while memory stands still (`:age_ms` in `OOM.Usage`). There is no
  ledger where the working set or the resident memory is not known.
  """

  @enforce_keys [:used_bytes, :workers_bytes, :vm_bytes, :unexplained_bytes, :others_bytes]
  defstruct @enforce_keys ++ [:workers, :vm, growth_bytes_per_s: nil, age_ms: 0]

  @type bytes :: non_neg_integer()
  @type t :: %__MODULE__{
          used_bytes: bytes(),
          workers_bytes: bytes(),
          vm_bytes: bytes(),
          unexplained_bytes: bytes(),
          others_bytes: bytes(),
          workers: %{own: bytes(), tables: bytes(), ports: bytes(), children: bytes()},
          vm: %{
            processes: bytes(),
            binary: bytes(),
            ets: bytes(),
            atom: bytes(),
            code: bytes(),
            system: bytes()
          },
          growth_bytes_per_s:
            nil | %{workers: integer(), vm: integer(), unexplained: integer(), others: integer()},
          age_ms: non_neg_integer()
        }

  @categories [:processes, :binary, :ets, :atom, :code]

  @doc false
  # From the working set, the resident memory of the VM, the workers' known memory by category, and
  # `:erlang.memory/0`.
  @spec new(bytes(), bytes(), map(), keyword(bytes())) :: t()
  def new(used, rss, workers, memory) do
    # The figures are of different moments, and may add up to more than there is.
    others = max(used - rss, 0)
    allocated = min(memory[:total], used - others)
    known = workers |> Map.values() |> Enum.sum() |> min(allocated)
    vm = memory |> Keyword.take(@categories) |> Map.new()
    named = vm |> Map.values() |> Enum.sum()

    %__MODULE__{
      used_bytes: used,
      workers_bytes: known,
      vm_bytes: allocated - known,
      unexplained_bytes: used - others - allocated,
      others_bytes: others,
      workers: workers,
      vm: Map.put(vm, :system, max(memory[:total] - named, 0))
    }
  end

  @doc false
  # The growth since an earlier ledger, `ms` ago.
  @spec grown(t(), t(), pos_integer()) :: t()
  def grown(ledger, before, ms) do
    rate = fn key -> div((Map.fetch!(ledger, key) - Map.fetch!(before, key)) * 1_000, ms) end

    %{
      ledger
      | growth_bytes_per_s: %{
          workers: rate.(:workers_bytes),
          vm: rate.(:vm_bytes),
          unexplained: rate.(:unexplained_bytes),
          others: rate.(:others_bytes)
        }
    }
  end
end
