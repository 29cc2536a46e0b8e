defmodule Example.Census do
  @moduledoc """
  Counts the processes of the app's supervision tree, and names the processes that have ended since the start.

  Supervisors, listeners, acceptors, Presence and PubSub live as long as the app; connections come and go.
  """

  @doc "Remembers the processes below a supervisor."
  @spec take(pid) :: :ok
  def take(supervisor), do: :persistent_term.put(__MODULE__, Enum.uniq(below(supervisor, "app")))

  @doc "Returns the number of processes remembered, and the names of the ended ones."
  @spec ended() :: {non_neg_integer, [String.t()]}
  def ended do
    all = :persistent_term.get(__MODULE__, [])
    {length(all), for({name, pid} <- all, not Process.alive?(pid), do: name)}
  end

  defp below(supervisor, path) do
    # A child without an id comes and goes. The connections of ranch have an id, too.
    for {id, pid, type, _} when is_pid(pid) and id not in [:undefined, :cowboy_clear] <-
          Supervisor.which_children(supervisor),
        name = path <> "/" <> inspect(id),
        process <- [{name, pid} | if(type == :supervisor, do: below(pid, name), else: [])] do
      process
    end
  catch
    # A supervisor of connections that speaks another protocol.
    :exit, _ -> []
  end
end
