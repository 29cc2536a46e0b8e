defmodule OOM.HeapCaps.Setting do
  @moduledoc false
  # Sets caps. The worker sets its own cap, between two messages (OOM.Heap), to the value then in the table,
  # because orders may cross. A cap leaves room to a heap that is already large.

  alias OOM.{Heap, HeapCaps}

  # The cap is at least this multiple of the heap when the cap is set, garbage included. 100 MB of live
  # data, rewritten all the time, came to 132 MB after one collection, and to 558 MB at the next.
  @room 6

  @doc """
  Has the worker set its cap as soon as possible, without waiting. Called in the worker, sets the cap at once.
  """
  @spec set(pid()) :: :ok
  def set(pid) when pid == self(), do: here()

  # A helper first asks whether the worker understands the message, and waits for as long as the worker is
  # busy. The helper runs at high priority, because a worker may flood its heap at once.
  def set(pid) do
    _ = :erlang.spawn_opt(fn -> Heap.ask(pid, &here/0) end, priority: :high)
    :ok
  end

  @doc "Sets the cap of the calling worker. Must not be why the worker ends."
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
  Returns the workers whose heap is so large that the default cap leaves no room, with their heap in bytes.
  Only default caps: a declared cap was meant.
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
