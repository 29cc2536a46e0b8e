defmodule OOM.Victims do
  @moduledoc false
  # The processes told to leave because of memory. A supervisor whose child ends with `:killed`, or with a
  # reason of its own, learns from the mark that the end was no crash. Marks are short-lived.

  @keep_ms 60_000

  @spec mark(pid(), integer(), non_neg_integer()) :: true
  def mark(pid, now_ms, bytes), do: :ets.insert(__MODULE__, {pid, now_ms, bytes})

  @doc "Removes the mark of a spared process, whose end is an ordinary crash."
  @spec unmark(pid()) :: true
  def unmark(pid), do: :ets.delete(__MODULE__, pid)

  @spec marked?(pid()) :: boolean()
  def marked?(pid) do
    :ets.member(__MODULE__, pid)
  rescue
    # The application is stopped, and no process was told to leave.
    ArgumentError -> false
  end

  @doc "Returns the size in bytes of a victim when marked; 0 for an unmarked process."
  @spec bytes(pid()) :: non_neg_integer()
  def bytes(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, bytes}] -> bytes
      [] -> 0
    end
  end

  @doc "Tells whether any process was told to leave since `ms`."
  @spec since?(integer()) :: boolean()
  def since?(ms) do
    match = [{{:_, :"$1", :_}, [{:>=, :"$1", ms}], [true]}]
    match?({[true], _more}, :ets.select(__MODULE__, match, 1))
  rescue
    ArgumentError -> false
  end

  @doc "Deletes marks too old for any supervisor to wait for; returns their number."
  @spec sweep(integer()) :: non_neg_integer()
  def sweep(now_ms),
    do:
      :ets.select_delete(__MODULE__, [{{:_, :"$1", :_}, [{:<, :"$1", now_ms - @keep_ms}], [true]}])
end
