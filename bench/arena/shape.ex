defmodule Arena.Shape do
  @moduledoc false
  # A way to grow. A worker calls `new/2` once and `step/1` again and again, as fast as it can; a
  # step is short, so that the worker comes back to its loop as a GenServer does.

  alias Arena.{Job, Shapes}

  @type data :: term()

  @doc "In the worker, at its start: `nil` for one that grows by what others do."
  @callback new(id :: pos_integer(), Job.t()) :: data() | nil

  @doc "Holds some more, and says about how many bytes that is."
  @callback step(data()) :: {pos_integer(), data()}

  @doc "What belongs to the shape and is no worker: clients, neighbours. Started in the VM."
  @callback outside(Job.t()) :: term()

  @doc "Who grows, and at what priority; see `Arena.Tree`."
  @callback growers() :: :low | :protected | :unsupervised | :none

  @optional_callbacks outside: 1, growers: 0

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

  # Within one timeslice; see Arena.Shapes.Slice.
  @slices [
    slice_rand: Shapes.SliceRandom,
    slice_zero: Shapes.SliceZero,
    slice_64k: Shapes.SliceSmall
  ]

  @doc "All that a worker can be ended for while it grows."
  @spec names() :: [atom()]
  def names, do: Keyword.keys(@shapes)

  @doc "Those that never come back to where a process can be ended."
  @spec slices() :: [atom()]
  def slices, do: Keyword.keys(@slices)

  @spec module(atom()) :: module()
  def module(name), do: Keyword.fetch!(@shapes ++ @slices, name)

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
