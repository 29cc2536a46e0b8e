defmodule Arena.Leaker do
  @moduledoc false
  # A worker growing by its shape: once all workers are up, and after a restart from the first moment
  # on. An ordinary GenServer: after each step the worker returns to the loop. Knows nothing of OOM.

  use GenServer

  alias Arena.{Pace, Progress, Shape, Witness}

  @table __MODULE__

  @doc "Creates the tables; called before the first worker starts."
  def setup(job) do
    Progress.setup(job.workers)
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
  end

  def start_link({kind, id, job}), do: GenServer.start_link(__MODULE__, {kind, id, job})

  @doc "Returns the workers that are up and have not begun."
  @spec waiting() :: [{pos_integer(), pid()}]
  def waiting,
    do: for([id, pid] <- :ets.match(@table, {{:waits, :"$1"}, :"$2"}), do: {id, pid})

  @doc "Tells all waiting workers to begin."
  def begin do
    :ets.insert(@table, {:begun})
    for {_, pid} <- waiting(), do: send(pid, :begin)
  end

  @doc "Returns the present incarnation, if growing; may be dead already."
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

    data = module.new(id, job)
    if data != nil, do: send(self(), :step)
    {:noreply, {module, id, data, Pace.new(job, job.workers)}}
  end

  @impl true
  def handle_info(:begin, state), do: {:noreply, state, {:continue, :begin}}

  def handle_info(:step, {module, id, data, pace}) do
    case module.step(data) do
      :rest ->
        {:noreply, {module, id, data, pace}}

      {bytes, data} ->
        Progress.add(id, bytes)
        send(self(), :step)
        {:noreply, {module, id, data, Pace.wait(pace, bytes)}}
    end
  end

  def handle_info({:take, message}, {module, id, data, pace}),
    do: {:noreply, {module, id, module.take(message, data), pace}}

  # Requests come faster than answers.
  def handle_info({:request, _}, state), do: Process.sleep(5) && {:noreply, state}
  def handle_info(_other, state), do: {:noreply, state}
end
