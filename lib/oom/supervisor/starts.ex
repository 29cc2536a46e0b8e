defmodule OOM.Supervisor.Starts do
  @moduledoc false
  # Whose word a start is, noted in the supervisor's process dictionary. What OTP starts on its own
  # account (all children at the beginning, and what a strategy restarts) must leave the held ones
  # down, and must not fail because memory is short. A start somebody asked for is a start.

  @doc "Runs `fun`, in which OTP starts children by itself; those of `held` stay down."
  @spec own([id :: term()], (() -> result)) :: result when result: term()
  def own(held, fun) do
    Process.put(__MODULE__, held)

    try do
      fun.()
    after
      Process.delete(__MODULE__)
    end
  end

  @spec own?() :: boolean()
  def own?, do: Process.get(__MODULE__) != nil

  @doc "Whether this child must not be started now."
  @spec held?(term()) :: boolean()
  def held?(id), do: id in Process.get(__MODULE__, [])
end
