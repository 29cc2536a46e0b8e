defmodule Example.Census do
  @moduledoc """
  Which processes of the app's own tree have ended since it started.

  The supervisors, listeners, acceptors, Presence, PubSub and their helpers should live as long as the app,
  whatever its connections do.
  """

  @doc "Remembers the processes below a supervisor."
  @spec take(pid) :: :ok
  def take(supervisor), do: :persistent_term.put(__MODULE__, Enum.uniq(below(supervisor, "app")))

  @doc "How many there are, and the names of those that have ended."
  @spec ended() :: {non_neg_integer, [String.t()]}
  def ended do
    all = :persistent_term.get(__MODULE__, [])
    {length(all), for({name, pid} <- all, not Process.alive?(pid), do: name)}
  end

  defp below(supervisor, path) do
    # A child without an id is a connection, or other work that comes and goes; ranch's connections have one.
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
