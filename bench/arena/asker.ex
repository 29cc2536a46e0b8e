defmodule Arena.Asker do
  @moduledoc false
  # Asks one innocent after the other, as a client does: an answer later than the timeout of a
  # GenServer.call is as harmful as a death.

  alias Arena.{Innocent, Witness}

  @every_ms 10
  # GenServer's default.
  @timeout_ms 5_000
  @worst 1
  @since 2

  def start_link(innocents) do
    :persistent_term.put(__MODULE__, :atomics.new(2, signed: true))
    spawn_link(fn -> loop(1, innocents) end)
  end

  @doc "Returns the worst answer so far, in microseconds; an open question counts, too."
  @spec worst_us() :: non_neg_integer()
  def worst_us do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> 0
      atomics -> max(:atomics.get(atomics, @worst), open_us(:atomics.get(atomics, @since)))
    end
  end

  @doc "Asks each innocent once more at the end, all at once; shows innocents stuck for good."
  @spec all(pos_integer()) :: :ok
  def all(innocents) do
    refs = for id <- 1..innocents, do: spawn_monitor(fn -> ask(id) end)
    for {pid, ref} <- refs, do: receive(do: ({:DOWN, ^ref, _, ^pid, _} -> :ok))
    :ok
  end

  defp loop(id, innocents) do
    Process.sleep(@every_ms)
    atomics = :persistent_term.get(__MODULE__)
    :atomics.put(atomics, @since, now())
    ask(id)
    :atomics.put(atomics, @since, 0)
    loop(rem(id, innocents) + 1, innocents)
  end

  defp ask(id) do
    begun = now()
    answer = Innocent.ask(id, @timeout_ms)
    # Deaths are counted separately.
    unless answer == :dead, do: worst(:persistent_term.get(__MODULE__), now() - begun)
    if answer == :timeout, do: Witness.timed_out(id)
  end

  defp worst(atomics, us) do
    before = :atomics.get(atomics, @worst)

    # Several may ask at the end.
    if us > before and :atomics.compare_exchange(atomics, @worst, before, us) != :ok,
      do: worst(atomics, us)
  end

  defp open_us(0), do: 0
  defp open_us(since), do: now() - since

  defp now, do: System.monotonic_time(:microsecond)
end
