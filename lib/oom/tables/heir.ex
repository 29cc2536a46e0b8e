defmodule OOM.Tables.Heir do
  @moduledoc false
  # Inherits the tables at the end of OOM.Tables, and gives them to the next OOM.Tables. Meanwhile the named
  # tables stay in use. No other process knows the rows: without them held children would stay down for good,
  # and workers and supervisors register only once.

  use GenServer

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Tells whether the table was inherited; an inherited table is given to the caller, with all rows."
  @spec take(atom()) :: boolean()
  def take(table) do
    case Process.whereis(__MODULE__) do
      nil -> false
      heir -> GenServer.call(heir, {:take, table})
    end
  end

  @impl true
  def init(nil) do
    OOM.Tables.inherits(self())
    {:ok, nil}
  end

  @impl true
  def handle_call({:take, table}, {pid, _}, state) do
    inherited? = :ets.info(table, :owner) == self()
    if inherited?, do: :ets.give_away(table, pid, nil)
    {:reply, inherited?, state}
  end

  @impl true
  def handle_info(_transfer, state), do: {:noreply, state}
end
