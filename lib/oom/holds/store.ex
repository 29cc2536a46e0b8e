defmodule OOM.Holds.Store do
  @moduledoc false
  # The holds, in a table that outlives all writers: supervisors, releasers and OOM.Holds. No writer waits
  # for another. A row is replaced only by a row made from it, as the version tells; otherwise the change is
  # made again from the present row.
  #
  # The table is ordered, so the rows of a supervisor are next to each other.

  alias OOM.{Hold, Holds}

  @doc """
  Replaces a hold by the result of `change`; `nil` stands for no hold. Returns the old and the new hold.
  May call `change` several times.
  """
  @spec update(Hold.key(), (Hold.t() | nil -> Hold.t() | nil)) :: {Hold.t() | nil, Hold.t() | nil}
  def update(key, change) do
    old = lookup(key)

    case change.(old) do
      ^old ->
        {old, old}

      new ->
        new = new && %{new | version: :erlang.unique_integer()}
        if write(key, old, new), do: {old, new}, else: update(key, change)
    end
  end

  defp write(_key, nil, nil), do: true
  defp write(key, nil, new), do: :ets.insert_new(Holds, {key, new})

  defp write(key, %{version: version} = old, new) do
    replace(key, version, new) == 1
  rescue
    # An id with a special meaning in a match pattern, like :_, cannot be matched for.
    ArgumentError -> lookup(key) == old and put(key, new)
  end

  defp replace(key, version, nil),
    do: :ets.select_delete(Holds, [{{key, %{version: version}}, [], [true]}])

  defp replace(key, version, new),
    do: :ets.select_replace(Holds, [{{key, %{version: version}}, [], [{:const, {key, new}}]}])

  defp put(key, nil), do: :ets.delete(Holds, key)
  defp put(key, new), do: :ets.insert(Holds, {key, new})

  @spec lookup(Hold.key()) :: Hold.t() | nil
  def lookup(key) do
    case :ets.lookup(Holds, key) do
      [{_, hold}] -> hold
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end

  @spec all() :: [Hold.t()]
  def all, do: select({:_, :"$1"})

  @doc "Returns the holds of one supervisor, at the cost of reading only these."
  @spec all(pid()) :: [Hold.t()]
  def all(supervisor), do: select({{supervisor, :_}, :"$1"})

  # The table is gone while the application is stopped.
  defp select(pattern) do
    :ets.select(Holds, [{pattern, [], [:"$1"]}])
  rescue
    ArgumentError -> []
  end
end
