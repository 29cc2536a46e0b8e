defmodule OOM.HeapCaps.Limits do
  @moduledoc false
  # The limits seen so far. The watcher reports the limit with the least headroom, which may be
  # the host's for a while; a heap must still fit below the container's. So the lowest limit seen counts. A
  # limit that does not bind now is not reported when it moves, so its file is read again.

  @type t :: %{{atom(), String.t() | nil} => {bytes :: pos_integer(), read_ms :: integer()}}

  @again_ms 10_000

  @spec new() :: t()
  def new, do: %{}

  @doc "Stores the limit that binds now, in bytes, and reads the files of the other limits where due."
  @spec seen(t(), atom(), String.t() | nil, pos_integer(), integer()) :: t()
  def seen(limits, source, file, bytes, now_ms, read \\ &File.read/1) do
    others = for {key, limit} <- limits, key != {source, file}, do: {key, limit}

    for {key, limit} <- others, again = again(key, limit, now_ms, read), into: %{} do
      {key, again}
    end
    |> Map.put({source, file}, {bytes, now_ms})
  end

  @spec lowest(t()) :: pos_integer()
  def lowest(limits), do: limits |> Enum.map(fn {_, {bytes, _}} -> bytes end) |> Enum.min()

  defp again({source, file}, {_, read_ms}, now_ms, read)
       when source in [:cgroup_v1, :cgroup_v2, :cgroup_v2_high] and now_ms - read_ms >= @again_ms do
    # The file is gone, or says `max`.
    with {:ok, text} <- read.(file),
         {bytes, _} when bytes > 0 <- Integer.parse(text) do
      {bytes, now_ms}
    else
      _ -> nil
    end
  end

  defp again(_source, limit, _now_ms, _read), do: limit
end
