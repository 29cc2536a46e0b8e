defmodule Arena.Canary do
  @moduledoc false
  # The protected process, answering throughout, whatever leaks.

  use GenServer

  alias Arena.Witness

  def start_link(priority), do: GenServer.start_link(__MODULE__, priority, name: __MODULE__)

  def ask(n), do: GenServer.call(__MODULE__, {:ask, n}, 60_000)

  @impl true
  def init(priority) do
    Process.flag(:priority, priority)
    Witness.up(:protected, 0)
    {:ok, 0}
  end

  @impl true
  def handle_call({:ask, n}, _from, asked), do: {:reply, n, asked + 1}
end

defmodule Arena.Prober do
  @moduledoc false
  # Asks the canary every 50 ms, at its priority. The clock starts when the question is due:
  # waiting for a scheduler counts too, as for a client.

  alias Arena.Canary

  @every_ms 50

  def start_link(priority) do
    worst = :atomics.new(1, signed: false)
    :persistent_term.put(__MODULE__, worst)
    first = now() + @every_ms * 1_000
    :erlang.spawn_opt(fn -> ask(0, first, worst) end, [:link, priority: priority])
  end

  @doc "Worst answer so far, in microseconds."
  def worst_us do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> 0
      worst -> :atomics.get(worst, 1)
    end
  end

  defp ask(n, due, worst) do
    wait = div(due - now(), 1_000)
    if wait > 0, do: Process.sleep(wait)
    ^n = Canary.ask(n)
    late = now() - due
    if late > :atomics.get(worst, 1), do: :atomics.put(worst, 1, late)
    # A late question does not excuse the following questions.
    ask(n + 1, due + @every_ms * 1_000, worst)
  end

  defp now, do: System.monotonic_time(:microsecond)
end
