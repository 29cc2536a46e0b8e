defmodule OOM.Test.Worker do
  @moduledoc false
  # A child that tells its owner `{:started, id, pid}`, and `{:stopped, id, reason}` if it traps
  # exits. `start` is called before each start: a result besides `:ok` is the answer. `init` is
  # called with the worker's pid, in the worker, before the message.

  use GenServer

  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(options) do
    {overrides, options} =
      Keyword.split(options, [:restart, :shutdown, :type, :significant, :modules])

    Map.merge(
      %{id: options[:id], start: {__MODULE__, :start_link, [options]}},
      Map.new(overrides)
    )
  end

  @spec start_link(keyword()) :: term()
  def start_link(options) do
    case Keyword.get(options, :start, fn -> :ok end).() do
      :ok -> GenServer.start_link(__MODULE__, options)
      other -> other
    end
  end

  @impl true
  def init(options) do
    if options[:trap_exit], do: Process.flag(:trap_exit, true)
    if init = options[:init], do: init.(self())
    send(options[:owner], {:started, options[:id], self()})
    {:ok, options}
  end

  @impl true
  def handle_call(:state, _from, options), do: {:reply, options, options}

  @impl true
  def handle_cast({:stop, reason}, options), do: {:stop, reason, options}

  @impl true
  def terminate(reason, options), do: send(options[:owner], {:stopped, options[:id], reason})
end
