defmodule OOM.Tables.Heir do
  @moduledoc false
  # Inherits the tables where OOM.Tables ends, and gives them to its next incarnation. Meanwhile they
  # are there for everybody, under their names. What is in them is known to nobody else: who is held
  # would stay down for good, and workers and supervisors tell of themselves only once.

  use GenServer

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Whether the table was inherited; it then belongs to the caller, with all that is in it."
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
