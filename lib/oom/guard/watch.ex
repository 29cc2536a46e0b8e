defmodule OOM.Guard.Watch do
  @moduledoc false
  # Starts the native watcher for the guard, with the configuration.

  alias OOM.{Config, Native}

  @spec start(Config.t()) :: {:ok, Native.watcher(), map()} | {:error, {atom(), term()}}
  def start(config) do
    with true <- Native.loaded?() || {:error, {:not_loaded, Native.load_error()}},
         {:ok, watcher} <- Native.watcher_start(self(), native(config)),
         do: {:ok, watcher, Native.watcher_report(watcher)}
  end

  defp native(config) do
    [elevated: e_ms, high: h_ms, critical: c_ms] = config.time_to_exhaustion_ms

    %{
      limit_bytes: config.limit,
      root: config.root,
      watermarks: watermarks(config.watermarks),
      tte_ms: {e_ms, h_ms, c_ms},
      min_interval_ms: config.sample_interval_ms[:min],
      max_interval_ms: config.sample_interval_ms[:max]
    }
  end

  defp watermarks(:auto), do: nil
  defp watermarks(elevated: e, high: h, critical: c), do: {e * 1.0, h * 1.0, c * 1.0}
end
