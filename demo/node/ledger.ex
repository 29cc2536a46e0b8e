defmodule Demo.Node.Ledger do
  @moduledoc false
  # The one at `:protected`: state that exists nowhere else. Each entry is chained to all before it,
  # so that a lost, changed or repeated one shows. It is the largest worker of all at first: who
  # kills by size alone kills this one.

  use GenServer

  alias Demo.Node.Witness

  @opening 50_000

  def start_link(_arg), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Adds an entry; returns the chain's new end."
  def append(entry, timeout), do: GenServer.call(__MODULE__, {:append, entry}, timeout)

  @doc "All entries, oldest first."
  def entries, do: GenServer.call(__MODULE__, :entries, 60_000)

  @doc "The end of the chain over `entries`."
  def chain(entries), do: Enum.reduce(entries, "", &link/2)

  @doc "What the ledger holds before the first `append/2`."
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
