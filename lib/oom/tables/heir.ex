defmodule OOM.Tables.Heir do
  @moduledoc false
  # Inherits the holds where OOM.Tables ends, and gives them to its next incarnation. All else can
  # be found out again; who is held is known to nobody else, and would stay down for good.

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
  def init(nil), do: {:ok, nil}

  @impl true
  def handle_call({:take, table}, {pid, _}, state) do
    inherited? = :ets.info(table, :owner) == self()
    if inherited?, do: :ets.give_away(table, pid, nil)
    {:reply, inherited?, state}
  end

  @impl true
  def handle_info(_transfer, state), do: {:noreply, state}
end
