defmodule OOM.Supervisor.Rejoin do
  @moduledoc false
  # The tables of the application are new when `:oom` starts after the supervisors (in a script, or as an
  # included application), or starts again. So the application looks once for running OOM.Supervisors, and asks
  # each to enter itself and its children. Outer supervisors come first, because inner supervisors inherit.
  #
  # The priority in a child's specification counts. Priorities that workers have declared meanwhile with
  # `OOM.set_priority/1` are not known.

  require OOM.Log, as: Log

  alias OOM.{InitialCall, Tables, VM}
  alias OOM.Supervisor.Callback

  # A supervisor starting a slow child answers later, and enters its children all the same.
  @answer_ms 5_000
  # Supervisors named in the log.
  @named 5

  @doc "Starts the search in a process of its own."
  @spec start() :: pid()
  def start, do: spawn(&run/0)

  @doc "Called in a starting supervisor: warns once in the life of the VM that nothing guards the children."
  @spec warn_unguarded() :: :ok
  def warn_unguarded do
    if Tables.config() == nil and not :persistent_term.get(__MODULE__, false) do
      :persistent_term.put(__MODULE__, true)

      Log.warning(
        "OOM: the application :oom is not started, so no children of #{inspect(self())} or of other " <>
          "OOM.Supervisors are guarded until it is"
      )
    end

    :ok
  end

  defp run do
    found = for pid <- Process.list(), depth = depth(pid), do: {depth, pid}

    silent =
      for {_depth, level} <- found |> Enum.group_by(&elem(&1, 0), &elem(&1, 1)) |> Enum.sort(),
          pid <- ask(level),
          do: pid

    if found != [], do: tell(length(found), silent), else: :ok
  end

  # The number of supervisors above an OOM.Supervisor; `nil` for any other process.
  defp depth(pid) do
    with {_, true} <- :erlang.process_info(pid, :trap_exit),
         {:supervisor, _, _} <- InitialCall.of_supervisor(pid),
         {_strategy, _options} <- VM.dictionary(pid, Callback),
         ancestors when is_list(ancestors) <- VM.dictionary(pid, :"$ancestors") do
      length(ancestors)
    else
      _ -> nil
    end
  end

  # Returns the supervisors without an answer.
  defp ask(pids) do
    refs = for pid <- pids, into: %{}, do: {Process.monitor(pid), pid}
    for {ref, pid} <- refs, do: send(pid, {__MODULE__, self(), ref})
    await(refs, System.monotonic_time(:millisecond) + @answer_ms)
  end

  defp await(refs, _until) when map_size(refs) == 0, do: []

  defp await(refs, until) do
    receive do
      {__MODULE__, ref} -> refs |> Map.delete(ref) |> await(until)
      {:DOWN, ref, :process, _, _} -> refs |> Map.delete(ref) |> await(until)
    after
      max(until - System.monotonic_time(:millisecond), 0) -> Map.values(refs)
    end
  end

  defp tell(count, silent) do
    Log.info("OOM: found #{count} OOM.Supervisors that were started before :oom")

    if silent != [] do
      Log.error(
        "OOM: #{length(silent)} OOM.Supervisors started before :oom do not answer yet, and nothing guards " <>
          "their children until they do: #{silent |> Enum.take(@named) |> inspect()}"
      )
    end

    :ok
  end
end
