defmodule OOM.Owned.Tables do
  @moduledoc false
  # ETS tables, with the binaries in their rows. The tables of an unregistered process count for the worker
  # above (OOM.Owned.Line). Asking for a table's size sends no signal to the owner; 10,000 tables took 4.4 ms
  # here.

  @behaviour OOM.Owned

  alias OOM.Owned.{Line, Rows}

  # So many tables are sampled in one reading (OOM.Owned.Rows). A sample takes up to a millisecond.
  @samples 32

  @impl true
  def read do
    word = :erlang.system_info(:wordsize)
    {tables, _seen} = Enum.reduce(:ets.all(), {[], %{}}, &owned(&1, &2, word))
    reading = System.unique_integer([:monotonic])
    {owners, _left} = Enum.reduce(tables, {%{}, @samples}, &add(&1, &2, reading))
    forget(reading)
    for {owner, bytes} <- owners, do: {owner, bytes, nil}
  end

  # The tables of workers: {table, worker, bytes}.
  defp owned(table, {tables, seen}, word) do
    with owner when is_pid(owner) <- :ets.info(table, :owner),
         words when is_integer(words) <- :ets.info(table, :memory),
         {worker, seen} = Line.worker(owner, seen),
         seen = Map.put(seen, owner, worker) do
      if worker == nil,
        do: {tables, seen},
        else: {[{table, worker, words * word} | tables], seen}
    else
      # Deleted in the meantime.
      _ -> {tables, seen}
    end
  end

  defp add({table, worker, bytes}, {owners, left}, reading) do
    {binaries, left} = binaries(table, bytes, left, reading)
    {Map.update(owners, worker, bytes + binaries, &(&1 + bytes + binaries)), left}
  end

  defp binaries(table, bytes, left, reading) do
    size = :ets.info(table, :size)
    last = last(table)

    cond do
      not is_integer(size) or size == 0 ->
        {0, left}

      left > 0 and Rows.due?(size, last) and :ets.info(table, :protection) != :private ->
        sample = Rows.sample(table, size, bytes)
        keep(table, sample, reading)
        {Rows.bytes(size, sample), left - 1}

      true ->
        keep(table, last, reading)
        {Rows.bytes(size, last), left}
    end
  end

  # The samples are in OOM.Owned's table beside the holdings.
  defp last(table) do
    case :ets.lookup(OOM.Owned, {:rows, table}) do
      [{_, size, bytes, _}] -> {size, bytes}
      [] -> nil
    end
  end

  defp keep(_table, nil, _reading), do: true

  defp keep(table, {size, bytes}, reading),
    do: :ets.insert(OOM.Owned, {{:rows, table}, size, bytes, reading})

  # Samples of tables that have gone.
  defp forget(reading) do
    old = [{{{:rows, :_}, :_, :_, :"$1"}, [{:<, :"$1", reading}], [true]}]
    :ets.select_delete(OOM.Owned, old)
  end
end
