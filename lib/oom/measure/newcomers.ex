defmodule OOM.Newcomers do
  @moduledoc false
  # The newest workers that appeared while memory was not at rest, in the order of their appearance. A thousand
  # small connections do not grow one by one: their number grows. So the newest connections together are the cause
  # of that growth (OOM.Crowd).
  #
  # At the level `:normal` nothing is noted. Growth raises the level long before any memory is needed.

  alias OOM.{Level, Workers}

  # The table keeps so many rows, the newest. At 16 KiB each (`min_victim_bytes`) they hold 64 MiB.
  @most 4_096

  # A newcomer whose birth nobody saw may be so old, in ms: a walk would have found an older one.
  @unseen_ms 1_000

  @doc "Notes a worker that has just appeared; a `:newcomer` may have come some time ago."
  @spec note(pid(), :born | :newcomer) :: :ok
  def note(pid, age \\ :born) do
    if Level.get() != :normal do
      now_ms = System.monotonic_time(:millisecond)
      at_ms = if age == :born, do: now_ms, else: now_ms - @unseen_ms
      :ets.insert(__MODULE__, {{at_ms, pid}})
      if :ets.info(__MODULE__, :size) > @most, do: :ets.delete(__MODULE__, :ets.first(__MODULE__))
    end

    :ok
  end

  @doc "Tells whether a worker has appeared since this time."
  @spec since?(integer()) :: boolean()
  def since?(ms), do: match?({at_ms, _pid} when at_ms >= ms, :ets.last(__MODULE__))

  @doc "Returns the workers that have appeared since this time, and when each did."
  @spec since(integer()) :: %{pid() => appeared_ms :: integer()}
  def since(ms) do
    row = {{{:"$1", :"$2"}}, [{:>=, :"$1", ms}], [{{:"$2", :"$1"}}]}
    __MODULE__ |> :ets.select([row]) |> Map.new()
  end

  @doc """
  Returns the newest workers of a rank, the newest first, with the time at which each appeared and the row in
  OOM.Workers; at most `count`.
  """
  @spec latest(OOM.Priority.rank(), pos_integer()) :: [{appeared_ms :: integer(), Workers.row()}]
  def latest(rank, count), do: back(:ets.last(__MODULE__), rank, count)

  defp back({at_ms, pid} = key, rank, count) when count > 0 do
    before = :ets.prev(__MODULE__, key)

    case Workers.lookup(pid) do
      {_, ^rank, _, _, _, _, _, _, _} = row ->
        [{at_ms, row} | back(before, rank, count - 1)]

      nil ->
        # The worker has ended, or was told to.
        :ets.delete(__MODULE__, key)
        back(before, rank, count)

      _other_rank ->
        back(before, rank, count)
    end
  end

  defp back(_end_of_table, _rank, _count), do: []
end
