defmodule Arena.Leaker do
  @moduledoc false
  # A worker that grows the way its shape says: once all are there, and when it comes back later,
  # from its first moment on. A GenServer like any other: after each step it comes back to its loop.
  # It knows nothing of OOM.

  use GenServer

  alias Arena.{Pace, Progress, Shape, Witness}

  @table __MODULE__

  @doc "Before any of them starts."
  def setup(job) do
    Progress.setup(job.workers)
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
  end

  def start_link({kind, id, job}), do: GenServer.start_link(__MODULE__, {kind, id, job})

  @doc "Those that are there, and have not begun."
  @spec waiting() :: [{pos_integer(), pid()}]
  def waiting,
    do: for([id, pid] <- :ets.match(@table, {{:waits, :"$1"}, :"$2"}), do: {id, pid})

  @doc "All are there."
  def begin do
    :ets.insert(@table, {:begun})
    for {_, pid} <- waiting(), do: send(pid, :begin)
  end

  @doc "The present incarnation, if it grows; it may be dead already."
  @spec whereis(pos_integer()) :: pid() | nil
  def whereis(id) do
    case :ets.lookup(@table, id) do
      [{_, pid}] -> pid
      [] -> nil
    end
  end

  @impl true
  def init({kind, id, job}) do
    Witness.up(kind, id)
    state = {Shape.module(job.shape), id, job}

    if :ets.member(@table, :begun) do
      {:ok, state, {:continue, :begin}}
    else
      :ets.insert(@table, {{:waits, id}, self()})
      {:ok, state}
    end
  end

  @impl true
  def handle_continue(:begin, {module, id, job}) do
    :ets.insert(@table, {id, self()})

    case module.new(id, job) do
      nil ->
        {:noreply, nil}

      data ->
        send(self(), :step)
        {:noreply, {module, id, data, Pace.new(job, job.workers)}}
    end
  end

  @impl true
  def handle_info(:begin, state), do: {:noreply, state, {:continue, :begin}}

  def handle_info(:step, {module, id, data, pace}) do
    {bytes, data} = module.step(data)
    Progress.add(id, bytes)
    send(self(), :step)
    {:noreply, {module, id, data, Pace.wait(pace, bytes)}}
  end

  # Requests come faster than it works.
  def handle_info({:request, _}, state), do: Process.sleep(5) && {:noreply, state}
  def handle_info(_other, state), do: {:noreply, state}
end
