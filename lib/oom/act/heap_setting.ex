defmodule OOM.HeapCaps.Setting do
  @moduledoc false
  # Sets caps. A worker sets the cap, between two messages (OOM.Heap), to what the table says then: of two orders
  # that cross either may come last. And a cap leaves room to a heap that is large already.

  alias OOM.{Heap, HeapCaps}

  # At least so many times the heap that there is when the cap is set, in which garbage is counted, too.
  # 100 MB that lived and were rewritten came to 132 MB after one collection, and to 558 MB at the next.
  @room 6

  @doc "The worker sets the cap as soon as the worker can. The caller does not wait; a worker that calls sets the cap now."
  @spec set(pid()) :: :ok
  def set(pid) when pid == self(), do: here()

  # A helper asks first whether the worker would understand, which may take as long as the worker is busy.
  # At high priority, because a worker that floods its heap may begin at once.
  def set(pid) do
    _ = :erlang.spawn_opt(fn -> Heap.ask(pid, &here/0) end, priority: :high)
    :ok
  end

  @doc "Runs in the worker, and must not be why the worker ends."
  @spec here() :: term()
  def here do
    Heap.mailbox_off_heap()

    case :ets.lookup(HeapCaps, self()) do
      [{_, _, _, nil, true}] -> Heap.cap_self(nil)
      [{_, size, _, bytes, true}] -> with_room(bytes, Heap.binaries?(size))
      [{_, size, _, bytes, false}] when bytes != nil -> Heap.cap_self(bytes, Heap.binaries?(size))
      _none -> :ok
    end
  rescue
    # The application is being stopped.
    ArgumentError -> :ok
  end

  defp with_room(bytes, binaries?) do
    held = Heap.held_bytes(self(), binaries?)
    Heap.cap_self(max(bytes, trunc(@room * held)), binaries?)
  end

  @doc """
  The workers whose heap is so large that the default leaves no room, and what each holds. Of the default only: a
  cap that was asked for was meant.
  """
  @spec large(pos_integer()) :: %{pid() => pos_integer()}
  def large(limit_bytes) do
    row = {:"$1", :"$2", :default, :"$3", :_}
    rows = :ets.select(HeapCaps, [{row, [{:"/=", :"$3", nil}], [{{:"$1", :"$2"}}]}])

    for {pid, size} <- rows,
        bytes = Heap.held_bytes(pid, Heap.binaries?(size)),
        bytes * @room > Heap.bytes(size, limit_bytes),
        into: %{},
        do: {pid, bytes}
  end
end
