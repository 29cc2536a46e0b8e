defmodule OOM.Throttle.Suspended do
  @moduledoc false
  # The workers suspended by the throttle, and whether each stands yet: `%{pid => stands?}`. A worker
  # stands at the end of its turn, or of a collection. The VM then sends the throttle
  # `{{OOM.Throttle.Suspended, pid}, how}`.

  @type t :: %{pid() => boolean()}

  @spec suspend(pid(), t()) :: t()
  def suspend(pid, still) when is_map_key(still, pid), do: still

  def suspend(pid, still) do
    :erlang.suspend_process(pid, asynchronous: {__MODULE__, pid})
    Map.put(still, pid, false)
  rescue
    # Some releases raise for a process that has ended, others do not.
    ArgumentError -> still
  end

  @spec resume(pid(), t()) :: t()
  def resume(pid, still) when is_map_key(still, pid) do
    :erlang.resume_process(pid)
    Map.delete(still, pid)
  rescue
    ArgumentError -> Map.delete(still, pid)
  end

  def resume(_pid, still), do: still

  @doc "The VM says that this worker stands; `false` where that was known, or the worker was resumed since."
  @spec stands(t(), pid()) :: {t(), boolean()}
  def stands(still, pid) do
    case still do
      %{^pid => false} -> {%{still | pid => true}, true}
      _ -> {still, false}
    end
  end

  @doc "Returns the workers that do not stand yet."
  @spec busy(t()) :: [pid()]
  def busy(still), do: for({pid, false} <- still, do: pid)
end
