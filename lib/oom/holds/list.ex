defmodule OOM.Holds.List do
  @moduledoc false
  # The holds as users see them, and the ways to name a hold.

  alias OOM.{Held, Hold, Holds}
  alias OOM.Holds.Store

  @doc "Returns all held children: waiting children by due time, then given-up children, then returning ones."
  @spec all() :: [Held.t()]
  def all do
    now = System.monotonic_time(:millisecond)

    Store.all()
    |> Enum.filter(&Hold.held?/1)
    # In term order, any number is less than an atom.
    |> Enum.sort_by(&if(&1.state == :held, do: &1.due_ms, else: &1.state))
    |> Enum.map(&Held.from_hold(&1, now))
  end

  @spec release(Held.t() | {GenServer.server(), term()}) ::
          :ok | {:error, :not_held} | {:error, term()}
  def release(%Held{supervisor: supervisor, id: id}), do: release({supervisor, id})

  def release({server, id}) do
    with supervisor when is_pid(supervisor) <- whereis(server, id),
         %Hold{} = hold <- find(supervisor, id) do
      Holds.release(Hold.key(hold))
    else
      nil -> {:error, :not_held}
    end
  end

  def release(other), do: wrong!(other)

  # By the child's own id, or by the id of a sibling down with the child.
  defp find(supervisor, id) do
    with nil <- Store.lookup({supervisor, id}),
         do: Enum.find(Store.all(supervisor), &(Hold.held?(&1) and id in &1.ids))
  end

  defp whereis(pid, _id) when is_pid(pid), do: pid
  defp whereis(name, _id) when is_atom(name), do: local(GenServer.whereis(name))
  defp whereis({:global, _} = name, _id), do: local(GenServer.whereis(name))
  defp whereis({:via, m, _} = name, _id) when is_atom(m), do: local(GenServer.whereis(name))
  defp whereis(other, id), do: wrong!({other, id})

  defp local(pid) when is_pid(pid), do: pid
  defp local(_none_or_elsewhere), do: nil

  defp wrong!(got) do
    raise ArgumentError,
          "expected held to be {supervisor, id}, with the supervisor's pid or name, or what " <>
            "OOM.held/0 lists, got: #{inspect(got)}"
  end
end
