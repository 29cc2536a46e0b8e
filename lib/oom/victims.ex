defmodule OOM.Victims do
  @moduledoc false
  # Who was told to leave because of memory. A supervisor that sees a child end with `:killed`, or
  # in a way of its own, learns from the mark that it was no crash. Marks are short-lived.

  @keep_ms 60_000

  @spec mark(pid(), integer(), non_neg_integer()) :: true
  def mark(pid, now_ms, bytes), do: :ets.insert(__MODULE__, {pid, now_ms, bytes})

  @doc "It was spared: its end is a crash like any other."
  @spec unmark(pid()) :: true
  def unmark(pid), do: :ets.delete(__MODULE__, pid)

  @spec marked?(pid()) :: boolean()
  def marked?(pid) do
    :ets.member(__MODULE__, pid)
  rescue
    # The application is stopped: nobody was told anything.
    ArgumentError -> false
  end

  @doc "What a victim held when it was marked; 0 for one that was not."
  @spec bytes(pid()) :: non_neg_integer()
  def bytes(pid) do
    case :ets.lookup(__MODULE__, pid) do
      [{_, _, bytes}] -> bytes
      [] -> 0
    end
  end

  @doc "Whether anybody was told to leave since this time. Asked only while memory is critical."
  @spec since?(integer()) :: boolean()
  def since?(ms) do
    match = [{{:_, :"$1", :_}, [{:>=, :"$1", ms}], [true]}]
    match?({[true], _more}, :ets.select(__MODULE__, match, 1))
  rescue
    ArgumentError -> false
  end

  @doc "Drops the marks no supervisor can be waiting for any more."
  @spec sweep(integer()) :: non_neg_integer()
  def sweep(now_ms),
    do:
      :ets.select_delete(__MODULE__, [{{:_, :"$1", :_}, [{:<, :"$1", now_ms - @keep_ms}], [true]}])
end
