defmodule Rivals.Largest do
  @moduledoc false
  # Kills the largest process, as users do: by its memory in process_info. Only workers;
  # supervisors, the canary and system processes are left alone, for killing them would end the VM
  # itself. Knows no priorities.

  @doc "Makes the workers of this supervisor killable."
  @spec killable(pid()) :: :ok
  def killable(supervisor), do: :persistent_term.put(__MODULE__, [supervisor | supervisors()])

  @spec kill() :: true | nil
  def kill do
    case Enum.max_by(sizes(supervisors()), &elem(&1, 1), fn -> nil end) do
      {pid, _bytes} -> Process.exit(pid, :kill)
      nil -> nil
    end
  end

  defp sizes(supervisors) do
    for pid <- Process.list(),
        {:parent, parent} <- [Process.info(pid, :parent)],
        parent in supervisors,
        {:memory, bytes} <- [Process.info(pid, :memory)],
        do: {pid, bytes}
  end

  defp supervisors, do: :persistent_term.get(__MODULE__, [])
end
