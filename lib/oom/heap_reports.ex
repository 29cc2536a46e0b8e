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
  def filter(
        %{level: :error, meta: %{error_logger: %{emulator: true}}, msg: {format, [pid | args]}},
        _
      )
      when is_pid(pid) and is_list(format) do
    with words when is_integer(words) <- killed_at(args),
         true <- :string.find(format, ~c"maximum heap size reached") != :nomatch,
         do: mark(pid, words * :erlang.system_info(:wordsize))

    :ignore
  end

  def filter(_event, _), do: :ignore

  # The rest of the arguments of the VM's report: on a node with a name its name, then the cap in
  # words, the heap in words, whether it kills. Where binaries count for the cap the heap itself may
  # be small; with them it has passed the cap.
  defp killed_at([max_words, heap_words, true | _])
       when is_integer(max_words) and is_integer(heap_words),
       do: max(max_words, heap_words)

  defp killed_at([node | args]) when is_atom(node) and not is_boolean(node), do: killed_at(args)
  defp killed_at(_other), do: nil

  defp mark(pid, bytes) do
    OOM.Victims.mark(pid, System.monotonic_time(:millisecond), bytes)
  rescue
    # The tables are gone: the application is stopping. A filter that raises is removed for good.
    ArgumentError -> :ok
  end
end
