defmodule OOM.Supervisor.Starts do
  @moduledoc false
  # Whether OTP or the user asked for a start, noted in the supervisor's process dictionary. OTP's own starts
  # (all children at the beginning, restarts by a strategy) must leave held children down, and must not fail
  # because memory is short. A start requested by the user always goes ahead.

  @doc "Runs `fun`, in which OTP starts children by itself; children in `held` stay down."
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

  @doc "Tells whether this child must not be started now."
  @spec held?(term()) :: boolean()
  def held?(id), do: id in Process.get(__MODULE__, [])
end
