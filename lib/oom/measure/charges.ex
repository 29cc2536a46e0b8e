defmodule OOM.Charges do
  @moduledoc false
  # The growth that an experiment has shown to be a worker's, where no figure shows the memory (OOM.Experiment).
  # The throttle writes, the choice of victims reads. The growth fades as shown growth does.

  alias OOM.{Evidence, Limits, Workers}

  @doc "Charges a worker with growth, in bytes."
  @spec put(pid(), pos_integer(), integer()) :: true
  def put(pid, bytes, now_ms) do
    :ets.insert(__MODULE__, [{pid, bytes, now_ms}, {:last, now_ms}])

    # The worker may have ended meanwhile.
    Workers.member?(pid) or delete(pid)
  end

  @doc "Returns the time of the last charge, or `nil`."
  @spec last_ms() :: integer() | nil
  def last_ms do
    case :ets.lookup(__MODULE__, :last) do
      [{_, at_ms}] -> at_ms
      [] -> nil
    end
  end

  @spec delete(pid()) :: true
  def delete(pid), do: :ets.delete(__MODULE__, pid)

  @doc "Returns the growth that a worker is charged with, as of now, in bytes; 0 where none."
  @spec grown_bytes(pid(), integer()) :: non_neg_integer()
  def grown_bytes(pid, now_ms) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, bytes, at_ms}] ->
        since_ms = max(now_ms - at_ms - Limits.suspect_ms(), 0)
        if since_ms > Limits.fresh_ms(), do: 0, else: Evidence.faded(bytes, since_ms)

      [] ->
        0
    end
  end
end
