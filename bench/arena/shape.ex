defmodule Arena.Shape do
  @moduledoc false
  # A way to grow. A worker calls `new/2` once and `step/1` again and again, as fast as possible.
  # A step is short, so the worker returns to its loop as a GenServer does.

  alias Arena.{Job, Shapes}

  @type data :: term()

  @doc "Called in the worker, at its start: `nil` for a worker that grows by the actions of others."
  @callback new(id :: pos_integer(), Job.t()) :: data() | nil

  @doc """
  Takes more memory, and returns about how many bytes; `:rest` where the worker grows by messages alone.
  """
  @callback step(data()) :: {pos_integer(), data()} | :rest

  @doc "Takes a message `{:take, message}`, and returns what the worker keeps."
  @callback take(message :: term(), data()) :: data()

  @doc "Starts the parts of the shape outside of workers: clients, neighbours. Runs in the VM."
  @callback outside(Job.t()) :: term()

  @doc "Returns which processes grow, and at what priority; see `Arena.Tree`."
  @callback growers() :: :low | :protected | :unsupervised | :none

  @optional_callbacks outside: 1, growers: 0, take: 2

  @shapes [
    list: Shapes.List,
    map: Shapes.LargeMap,
    dictionary: Shapes.Dictionary,
    append: Shapes.Append,
    binaries: Shapes.Binaries,
    subs: Shapes.SubBinaries,
    ets: Shapes.OwnTable,
    ets_shared: Shapes.SharedTable,
    mailbox: Shapes.Mailbox,
    atomics: Shapes.Atomics,
    port: Shapes.OutputPort,
    socket: Shapes.Socket,
    spawn: Shapes.Spawn,
    burst: Shapes.Burst,
    mixture: Shapes.Mixture,
    neighbour: Shapes.Neighbour,
    neighbour_alone: Shapes.NeighbourAlone,
    protected: Shapes.Protected,
    unsupervised: Shapes.Unsupervised
  ]

  # As in public reports; see shapes/reports.ex.
  @reports [
    parts: Shapes.Parts,
    mail_binaries: Shapes.MailBinaries,
    timers: Shapes.Timers,
    monitors: Shapes.Monitors,
    helper_table: Shapes.HelperTable,
    row_binaries: Shapes.RowBinaries,
    private_rows: Shapes.PrivateRows,
    deflate: Shapes.Deflate,
    closures: Shapes.Closures,
    bodies: Shapes.Bodies,
    terms: Shapes.Terms,
    gzip: Shapes.Gzip
  ]

  # Within one timeslice; see Arena.Shapes.Slice.
  @slices [
    slice_rand: Shapes.SliceRandom,
    slice_zero: Shapes.SliceZero,
    slice_64k: Shapes.SliceSmall
  ]

  @doc "Returns the shapes during which a growing worker can be ended."
  @spec names() :: [atom()]
  def names, do: Keyword.keys(@shapes)

  @doc "Returns the shapes that never return to a point where a process can be ended."
  @spec slices() :: [atom()]
  def slices, do: Keyword.keys(@slices)

  @doc "Returns the shapes of public reports."
  @spec reports() :: [atom()]
  def reports, do: Keyword.keys(@reports)

  @spec module(atom()) :: module()
  def module(name), do: Keyword.fetch!(@shapes ++ @reports ++ @slices, name)

  @spec growers(atom()) :: :low | :protected | :unsupervised | :none
  def growers(name), do: optional(module(name), :growers, [], :low)

  @spec outside(Job.t()) :: term()
  def outside(job), do: optional(module(job.shape), :outside, [job], nil)

  defp optional(module, function, args, default) do
    Code.ensure_loaded!(module)

    if function_exported?(module, function, length(args)),
      do: apply(module, function, args),
      else: default
  end
end
