defmodule OOM.Throttle.Suspended do
  @moduledoc false
  # Whom the throttle has told to stand still, and who of them does: `%{pid => stands?}`. The VM tells its
  # caller `{{OOM.Throttle.Suspended, pid}, how}` when one stands: at the end of its turn, or of a collection.

  @type t :: %{pid() => boolean()}

  @spec suspend(pid(), t()) :: t()
  def suspend(pid, still) when is_map_key(still, pid), do: still

  def suspend(pid, still) do
    :erlang.suspend_process(pid, asynchronous: {__MODULE__, pid})
    Map.put(still, pid, false)
  rescue
    # One that has ended is no error on every release.
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

  @doc "This one stands; `false` where that was known, or it was let run since."
  @spec stands(t(), pid()) :: {t(), boolean()}
  def stands(still, pid) do
    case still do
      %{^pid => false} -> {%{still | pid => true}, true}
      _ -> {still, false}
    end
  end

  @doc "Those that do not stand yet."
  @spec busy(t()) :: [pid()]
  def busy(still), do: for({pid, false} <- still, do: pid)
end
