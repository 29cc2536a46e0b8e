defmodule OOM.HeapReports do
  @moduledoc false
  # The VM reports a process that it killed for its `max_heap_size`, and only that report tells
  # such an end from any other `:killed`. This filter sees it pass, marks the victim for its
  # supervisor, and lets it go on unchanged.

  @spec install() :: :ok
  def install, do: OOM.LogFilter.install(__MODULE__)

  @spec uninstall() :: :ok
  def uninstall, do: OOM.LogFilter.uninstall(__MODULE__)

  @doc false
  @spec filter(:logger.log_event(), term()) :: :ignore
  # The arguments of the VM's report: who, the cap in words, the heap in words, whether it kills.
  def filter(
        %{
          level: :error,
          meta: %{error_logger: %{emulator: true}},
          msg: {format, [pid, _max_words, heap_words, true | _]}
        },
        _
      )
      when is_pid(pid) and is_integer(heap_words) and is_list(format) do
    if :string.find(format, ~c"maximum heap size reached") != :nomatch,
      do: mark(pid, heap_words * :erlang.system_info(:wordsize))

    :ignore
  end

  def filter(_event, _), do: :ignore

  defp mark(pid, bytes) do
    OOM.Victims.mark(pid, System.monotonic_time(:millisecond), bytes)
  rescue
    # The tables are gone: the application is stopping. A filter that raises is removed for good.
    ArgumentError -> :ok
  end
end
