defmodule Demo.Node.Prober do
  @moduledoc false
  # Asks the protected process every 50 ms, at normal priority, and keeps the worst answer. The
  # clock starts when the question is due: waiting for the scheduler counts too. The prober keeps
  # the ledger's chain as well, and compares each answer and, at the end, every entry.

  use GenServer

  alias Demo.Node.Ledger

  @every_ms 50

  def start_link, do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Returns the worst answer so far, in microseconds."
  def worst_us, do: :atomics.get(:persistent_term.get(__MODULE__), 1)

  @doc "Stops asking: returns `{asked, :intact | {:lost, what}}`."
  def verdict, do: GenServer.call(__MODULE__, :verdict, 60_000)

  @impl true
  def init(nil) do
    worst = :atomics.new(1, signed: false)
    :persistent_term.put(__MODULE__, worst)
    state = %{worst: worst, n: 0, due: now_ms(), head: Ledger.chain(Ledger.opening()), lost: nil}
    {:ok, next(state)}
  end

  @impl true
  def handle_info(:ask, state) do
    head = Ledger.link({:asked, state.n}, state.head)
    answer = Ledger.append({:asked, state.n}, 60_000)
    us = System.monotonic_time(:microsecond) - state.due * 1_000
    if us > :atomics.get(state.worst, 1), do: :atomics.put(state.worst, 1, us)
    lost = state.lost || if answer != head, do: "answer #{state.n} is of another ledger"
    {:noreply, next(%{state | n: state.n + 1, head: head, lost: lost})}
  end

  @impl true
  def handle_call(:verdict, _from, state) do
    expected = Ledger.opening() ++ Enum.map(0..(state.n - 1)//1, &{:asked, &1})
    lost = state.lost || if Ledger.entries() != expected, do: "entries are missing or changed"
    verdict = if lost, do: {:lost, lost}, else: :intact
    {:stop, :normal, {state.n, verdict}, state}
  end

  # A late question does not excuse the following questions.
  defp next(state) do
    due = state.due + @every_ms
    Process.send_after(self(), :ask, due, abs: true)
    %{state | due: due}
  end

  defp now_ms, do: System.monotonic_time(:millisecond)
end
