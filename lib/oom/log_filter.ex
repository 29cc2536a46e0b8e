defmodule OOM.LogFilter do
  @moduledoc false
  # A filter of the whole logger, under the module's name.

  @doc "Installs the module's `filter/2`, to see each event before any handler does."
  @spec install(module()) :: :ok
  def install(module) do
    _ = :logger.remove_primary_filter(module)
    :ok = :logger.add_primary_filter(module, {&module.filter/2, nil})
  end

  @spec uninstall(module()) :: :ok
  def uninstall(module) do
    _ = :logger.remove_primary_filter(module)
    :ok
  end
end
