defmodule OOM.Test.GeneratedTree.Births do
  @moduledoc false
  # A record of starts: all processes of a generated tree by their paths, and violations.

  @type t :: :ets.tid()

  @spec new() :: t()
  def new, do: :ets.new(__MODULE__, [:public, :bag])

  @spec note(t(), [pos_integer()], pid()) :: :ok
  def note(births, path, pid) do
    for {_, before} <- :ets.lookup(births, path), Process.alive?(before) do
      wrong(births, {:twice, path, before, pid})
    end

    :ets.insert(births, [{path, pid}, {pid, path}])
    :ok
  end

  @spec path(t(), pid()) :: [pos_integer()] | nil
  def path(births, pid) do
    case :ets.lookup(births, pid) do
      [{_, path}] -> path
      [] -> nil
    end
  end

  @spec wrong(t(), term()) :: true
  def wrong(births, what), do: :ets.insert(births, {:wrong, what})

  @spec all_wrong(t()) :: [term()]
  def all_wrong(births), do: for({_, what} <- :ets.lookup(births, :wrong), do: what)
end
