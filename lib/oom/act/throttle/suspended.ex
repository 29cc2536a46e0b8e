defmodule OOM.Throttle.Suspended do
  @moduledoc false
  # The workers suspended by the throttle: `%{pid => {stands?, hand}}`. A worker stands at the end of its turn,
  # or of a collection. The VM then sends the throttle `{{OOM.Throttle.Suspended, pid}, how}`.
  #
  # The hand of a worker is the child whose heap is about to grow most (OOM.Owned.hand/1): a unit's root only
  # waits, and a process inside grows. The hand stands and runs with the worker.

  alias OOM.Owned

  @type t :: %{pid() => {stands? :: boolean(), hand :: pid() | nil}}

  @spec suspend(pid(), t()) :: t()
  def suspend(pid, still) when is_map_key(still, pid), do: still

  def suspend(pid, still) do
    :erlang.suspend_process(pid, asynchronous: {__MODULE__, pid})
    Map.put(still, pid, {false, pid |> Owned.hand() |> suspend_hand()})
  rescue
    # Some releases raise for a process that has ended, others do not.
    ArgumentError -> still
  end

  defp suspend_hand(nil), do: nil

  defp suspend_hand(hand) do
    if :erlang.suspend_process(hand, [:asynchronous]), do: hand
  rescue
    ArgumentError -> nil
  end

  @spec resume(pid(), t()) :: t()
  def resume(pid, still) do
    case Map.pop(still, pid) do
      {nil, still} ->
        still

      {{_stands?, hand}, still} ->
        go_on(hand)
        go_on(pid)
        still
    end
  end

  defp go_on(nil), do: true

  defp go_on(pid) do
    :erlang.resume_process(pid)
  rescue
    ArgumentError -> false
  end

  @doc "The VM says that this worker stands; `false` where that was known, or the worker was resumed since."
  @spec stands(t(), pid()) :: {t(), boolean()}
  def stands(still, pid) do
    case still do
      %{^pid => {false, hand}} -> {%{still | pid => {true, hand}}, true}
      _ -> {still, false}
    end
  end

  @doc "Returns the workers that do not stand yet."
  @spec busy(t()) :: [pid()]
  def busy(still), do: for({pid, {false, _}} <- still, do: pid)
end
