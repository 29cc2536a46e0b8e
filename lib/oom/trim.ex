defmodule OOM.Trim do
  @moduledoc false
  # The first rung: each scheduler's cache of freed, unused segments goes back to the system. Nothing is lost.
  # Only the scheduler itself may touch its cache, so a throw-away process is bound to each scheduler. No
  # process waits for a trim.

  require OOM.Log, as: Log

  # The releases whose VM source was read, with the rung proven.
  @proven_otp [25, 27]

  @doc "Tells whether the rung is on, for the value of the `:trim` option; logs once where the rung is off."
  @spec enabled?(:auto | boolean()) :: boolean()
  def enabled?(false), do: false

  def enabled?(mode) do
    cond do
      not OOM.Native.loaded?() ->
        false

      not OOM.Native.trim_supported() ->
        Log.info(
          "OOM: this VM does not export erts_mseg_clear_cache; freed segments stay cached " <>
            "(consider +MMmcs 2 or lower)"
        )

        false

      mode == :auto and OOM.VM.otp_release() not in @proven_otp ->
        Log.info(
          "OOM: trim is not proven on OTP #{OOM.VM.otp_release()}; `trim: true` turns it on"
        )

        false

      true ->
        true
    end
  end

  @doc "Starts a trim on every normal scheduler and returns at once."
  @spec start() :: :ok
  def start, do: start(:erlang.system_info(:schedulers_online))

  defp start(0), do: :ok

  defp start(scheduler) do
    _pid = OOM.Schedulers.spawn_on(scheduler, OOM.Native, :trim, [])
    start(scheduler - 1)
  end
end
