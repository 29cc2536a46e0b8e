defmodule OOM.Owned.Tables do
  @moduledoc false
  # ETS tables. Asking for a table's size sends no signal to the owner; 10,000 tables took 4.4 ms here.

  @behaviour OOM.Owned

  alias OOM.Workers

  @impl true
  def read do
    word = :erlang.system_info(:wordsize)
    owners = Enum.reduce(:ets.all(), %{}, &add/2)
    for {owner, words} <- owners, Workers.lookup(owner) != nil, do: {owner, words * word, nil}
  end

  defp add(table, owners) do
    with owner when is_pid(owner) <- :ets.info(table, :owner),
         words when is_integer(words) <- :ets.info(table, :memory) do
      Map.update(owners, owner, words, &(&1 + words))
    else
      # Deleted in the meantime.
      _ -> owners
    end
  end
end
