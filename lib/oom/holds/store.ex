defmodule OOM.Holds.Store do
  @moduledoc false
  # The holds, in a table that outlives all who write to it: supervisors, those who release, and
  # OOM.Holds. Nobody waits for anybody: a row is only replaced by one that was made from it, as its
  # version tells. Otherwise the change is made again from what is there by then.
  #
  # The table is ordered, so that those of one supervisor are next to each other.

  alias OOM.{Hold, Holds}

  @doc """
  Replaces a hold by what `change` makes of it; `nil` stands for none. Returns what was there and
  what is there now. `change` may be called several times.
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
    # An id that means something else in a pattern, like :_, cannot be matched for.
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

  @doc "Those of one supervisor; costs what they are, not what all are."
  @spec all(pid()) :: [Hold.t()]
  def all(supervisor), do: select({{supervisor, :_}, :"$1"})

  # The table is gone while the application is stopped.
  defp select(pattern) do
    :ets.select(Holds, [{pattern, [], [:"$1"]}])
  rescue
    ArgumentError -> []
  end
end
