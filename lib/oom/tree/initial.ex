defmodule OOM.Tree.Initial do
  @moduledoc false
  # What a process is, by what it began with.

  @doc "`:supervisor` for OTP's and Elixir's; for others the module whose `init` it began with."
  @spec call(pid()) :: module() | nil
  def call(pid) do
    case dictionary(pid, :"$initial_call") do
      {:supervisor, _, _} -> :supervisor
      {module, _, _} -> module
      _ -> nil
    end
  end

  # One key where the VM can read one (OTP 26.2); decided once.
  if match?(
       {{:dictionary, _}, _},
       try do
         :erlang.process_info(self(), {:dictionary, :none})
       rescue
         ArgumentError -> nil
       end
     ) do
    defp dictionary(pid, key) do
      case :erlang.process_info(pid, {:dictionary, key}) do
        {_, value} -> value
        :undefined -> nil
      end
    end
  else
    defp dictionary(pid, key) do
      with {_, dictionary} <- :erlang.process_info(pid, :dictionary),
           {_, value} <- List.keyfind(dictionary, key, 0),
           do: value
    end
  end
end
