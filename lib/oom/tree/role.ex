defmodule OOM.Tree.Role do
  @moduledoc false
  # The role of a process below a supervisor, and its rank by the supervisor's rules. Reading from a process needs no
  # signal unless the process runs (0.6 us here). Only processes that trap exits, as every supervisor does, are asked
  # for their dictionary.

  alias OOM.{InitialCall, Priority, Tree}

  # Linked with all their users. Such an end would end all users, and the guard can kill users one by one.
  @linked [Registry.Partition]

  @typedoc """
  A supervisor, a supervisor with a loop of its own (`:special`), a process linked with all its users, or a worker.
  """
  @type t :: :supervisor | :special | :linked | :worker

  @doc "Returns the role of a process; `type` is the type in the supervisor's specification, `nil` if unknown."
  @spec of(pid(), :worker | :supervisor | nil) :: t()
  def of(pid, type) do
    case {:erlang.process_info(pid, :trap_exit), type} do
      {{_, true}, :supervisor} -> of_supervisor(pid)
      {{_, true}, type} -> trapping(InitialCall.of(pid), type)
      {_, :supervisor} -> :special
      _ -> :worker
    end
  end

  @doc "Returns the role of a process declared as a supervisor."
  @spec of_supervisor(pid()) :: :supervisor | :special
  def of_supervisor(pid), do: trapping(InitialCall.of_supervisor(pid), :supervisor)

  @doc "Returns the rank of a process with this role, from the rank below its supervisor."
  @spec rank(:linked | :worker, Priority.rank()) :: Priority.rank()
  def rank(:linked, _rank), do: :protected
  def rank(:worker, rank), do: rank

  @doc """
  Returns the options with the priority of the first rule that names the child's id, its registered name or its
  module; see `OOM.adopt/2`.
  """
  @spec ruled(Tree.options(), pid(), Tree.facts()) :: Tree.options()
  def ruled(options, pid, facts) do
    with [_ | _] = rules <- options[:priorities],
         keys = keys(pid, facts),
         {_key, priority} <- Enum.find(rules, fn {key, _} -> key in keys end) do
      Keyword.put(options, :priority, priority)
    else
      _no_rule -> options
    end
  end

  defp keys(pid, facts) do
    name = with {_, name} <- :erlang.process_info(pid, :registered_name), do: name
    [id(facts, pid), name, module(InitialCall.of(pid))]
  end

  defp id({_, _, children}, pid), do: Enum.find_value(children, &(&1.pid == pid && &1.id))
  defp id(_unknown, _pid), do: nil

  defp module({:supervisor, module, _}), do: module
  defp module({module, _, _}), do: module
  defp module(_unknown), do: nil

  defp trapping({:supervisor, _, _}, _type), do: :supervisor
  defp trapping(_call, :supervisor), do: :special
  defp trapping({module, _, _}, _type) when module in @linked, do: :linked

  # A supervisor with a loop of its own may not be declared as a supervisor.
  defp trapping(call, _type), do: if(InitialCall.special?(call), do: :special, else: :worker)
end
