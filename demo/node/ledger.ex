defmodule Demo.Node.Ledger do
  @moduledoc false
  # The worker at `:protected`: state found nowhere else. Each entry is chained to all entries
  # before, so a lost, changed or repeated entry shows. At first the largest worker of all: a
  # guard killing by size alone kills the ledger.

  use GenServer

  alias Demo.Node.Witness

  @opening 50_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Adds an entry; returns the chain's new end."
  def append(entry, timeout), do: GenServer.call(__MODULE__, {:append, entry}, timeout)

  @doc "Returns all entries, oldest first."
  def entries, do: GenServer.call(__MODULE__, :entries, 60_000)

  @doc "Returns the end of the chain over `entries`."
  def chain(entries), do: Enum.reduce(entries, "", &link/2)

  @doc "Returns the entries held before the first `append/2`."
  def opening, do: Enum.map(1..@opening, &{:opening, &1})

  def link(entry, head), do: :erlang.md5([head, :erlang.term_to_binary(entry)])

  @impl true
  def init(nil) do
    Witness.up(:protected, 1)
    {:ok, {Enum.reverse(opening()), chain(opening())}}
  end

  @impl true
  def handle_call({:append, entry}, _from, {entries, head}) do
    head = link(entry, head)
    {:reply, head, {[entry | entries], head}}
  end

  def handle_call(:entries, _from, {entries, _} = state),
    do: {:reply, Enum.reverse(entries), state}
end
