defmodule OOM.Test.UsedUp do
  @moduledoc false
  # A supervisor whose last allowed restart is used up: the next restart that counts ends the supervisor.
  # `max_restarts: 0` would not do: without any restart allowed, a kill ends the supervisor on purpose.

  # In the record of OTP's supervisor: the times of restarts, in seconds.
  @restarts 7

  @doc "Starts a supervisor with these children; one restart is allowed, and used up."
  @spec start_link(module(), [Supervisor.child_spec()], keyword()) :: Supervisor.on_start()
  def start_link(supervisor, children, options) do
    options = [max_restarts: 1, max_seconds: 1_000_000] ++ options
    use_up(supervisor.start_link(children, options))
  end

  @doc "Starts OTP's supervisor, one_for_one; Elixir 1.14 passes no `:auto_shutdown` on."
  @spec start_link([Supervisor.child_spec()], keyword()) :: Supervisor.on_start()
  def start_link(children, max_restarts: count, max_seconds: seconds, auto_shutdown: auto) do
    flags = %{strategy: :one_for_one, intensity: count, period: seconds, auto_shutdown: auto}
    :supervisor.start_link(OOM.Test.Template, {flags, children})
  end

  @doc "Uses up one restart of a supervisor just started."
  @spec use_up(Supervisor.on_start()) :: Supervisor.on_start()
  def use_up({:ok, pid}) do
    _ = :sys.replace_state(pid, &put_elem(&1, @restarts, [:erlang.monotonic_time(1)]))
    {:ok, pid}
  end

  def use_up(not_started), do: not_started
end
