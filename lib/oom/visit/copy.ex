defmodule OOM.Visit.Copy do
  @moduledoc false
  # Supervisors copied from Elixir's DynamicSupervisor, as Horde's is. The state is a struct with the same
  # fields. Each child is a tuple with a start and a restart type, and perhaps with an id in front.
  #
  # Such a supervisor notes a child that did not start as `{:restarting, child}`, and tries again when told
  # `{:"$gen_restart", pid}`. A hold uses both: the supervisor keeps the specification, and does what it does
  # for each restart, such as to tell other nodes.

  @fields [:children, :restarts, :max_restarts, :max_seconds]
  @restarts [:permanent, :transient, :temporary]

  @doc "Returns the start and the restart type of a child; `:error` for another state, or no such child."
  @spec child(term(), pid()) ::
          {:ok, start :: {module(), atom(), [term()]}, restart :: atom()} | :error
  def child(%module{children: %{} = children} = state, pid) when is_map_key(children, pid) do
    child = children[pid]

    with true <- Enum.all?(@fields, &is_map_key(state, &1)),
         true <- function_exported?(module, :handle_info, 2),
         true <- is_tuple(child),
         fields = Tuple.to_list(child),
         {_, _, _} = start <- Enum.find(fields, &start?/1),
         restart when restart != nil <- Enum.find(fields, &(&1 in @restarts)) do
      {:ok, start, restart}
    else
      _other_state -> :error
    end
  end

  def child(_state, _pid), do: :error

  # The arguments of temporary children are not kept.
  defp start?({module, function, arguments}),
    do: is_atom(module) and is_atom(function) and is_list(arguments)

  defp start?(_field), do: false

  @doc "Returns the state in which the child waits for its restart."
  @spec down(struct(), pid()) :: struct()
  def down(%{children: children} = state, pid),
    do: %{state | children: %{children | pid => {:restarting, children[pid]}}}

  @doc """
  Starts a child that is down, in the supervisor. A return is no crash, so the restart does not count towards
  `max_restarts`.
  """
  @spec start(struct(), pid()) :: {{:ok, pid()} | {:error, term()}, struct()}
  def start(%module{children: children, restarts: restarts} = state, pid) do
    case children do
      %{^pid => {:restarting, _child}} ->
        case module.handle_info({:"$gen_restart", pid}, %{state | restarts: []}) do
          {:noreply, new} -> started(pid, Map.keys(children), %{new | restarts: restarts})
          _stops -> {{:error, :not_started}, state}
        end

      _gone ->
        {{:error, :not_found}, state}
    end
  end

  defp started(pid, before, state) do
    case Map.keys(state.children) -- before do
      [new] -> {{:ok, new}, state}
      [] -> {{:error, failed(pid)}, state}
    end
  end

  # The supervisor has told itself to try again at once. The hold tries again, later.
  defp failed(pid) do
    receive(do: ({:"$gen_restart", ^pid} -> :not_started), after: (0 -> :not_found))
  end
end
