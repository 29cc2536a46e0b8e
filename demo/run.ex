defmodule Demo.Run do
  @moduledoc false
  # One run of the node under the limit, seen from outside: its memory every 20 ms, its messages,
  # and its end.

  alias Demo.Limit

  @sample_ms 20
  # Far more than the node's deadlines; only for a hanging node.
  @deadline_ms 180_000

  defstruct mode: nil,
            # since the node was ready
            seconds: nil,
            # the exit status as in a shell: 128 + the signal; :hung after a kill by the demo
            status: nil,
            hung: false,
            # whether the VM reported a failed allocation
            no_memory: false,
            # whether the kernel reports a kill; nil where unknown
            kernel_killed: nil,
            # [{seconds, bytes}], newest first until the end
            usage: [],
            # [{seconds, %{"key" => "value"}}], likewise
            statuses: [],
            levels: [],
            # when the leaks begin and end
            load: nil,
            load_over: nil,
            result: nil,
            problems: []

  @type t :: %__MODULE__{}

  @doc "Runs the node to its end. Calls `watch` with the run so far at each status and sample."
  @spec run(Limit.t(), String.t(), [String.t()], Path.t(), (t() -> term())) :: t()
  def run(limit, mode, command, log, watch) do
    killed_before = Limit.kernel_kills(limit)
    {program, arguments} = Limit.wrap(limit, command ++ [mode, "#{limit.bytes}"])

    port =
      Port.open({:spawn_executable, program}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 4_096,
        args: arguments,
        # The dump of a VM that fails to allocate takes longer than the demo.
        env: [{~c"ERL_CRASH_DUMP_BYTES", ~c"0"}]
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    File.mkdir_p!(Path.dirname(log))

    run =
      File.open!(log, [:write], fn log ->
        Process.send_after(self(), :sample, @sample_ms)

        loop(%__MODULE__{mode: mode}, %{
          port: port,
          pid: pid,
          limit: limit,
          usage: nil,
          log: log,
          watch: watch,
          begun: now(),
          zero: nil
        })
      end)

    killed_after = Limit.kernel_kills(limit)

    %{
      run
      | kernel_killed: killed_before && killed_after > killed_before,
        usage: Enum.reverse(run.usage),
        statuses: Enum.reverse(run.statuses),
        levels: Enum.reverse(run.levels)
    }
  end

  defp loop(run, %{port: port} = from) do
    receive do
      {^port, {:data, {_, line}}} ->
        IO.puts(from.log, "#{seconds(from)} #{line}")
        {run, from} = line(line, run, from)
        loop(run, from)

      {^port, {:exit_status, status}} ->
        # A hung node was killed here, which must not pass for a kill by the kernel.
        %{run | status: if(run.hung, do: :hung, else: status), seconds: seconds(from)}

      :sample ->
        {run, from} = sample(run, from)
        Process.send_after(self(), :sample, @sample_ms)
        loop(run, from)
    end
  end

  defp sample(run, from) do
    run = if now() - from.begun > @deadline_ms, do: give_up(run, from.pid), else: run

    # Only once the node is ready, when all preparations are done. Not on its way out.
    with true <- from.zero != nil and run.result == nil,
         bytes when is_integer(bytes) <- from.usage.() do
      run = %{run | usage: [{seconds(from), bytes} | run.usage]}
      from.watch.(run)
      {run, from}
    else
      _ -> {run, from}
    end
  end

  defp give_up(run, pid) do
    System.cmd("kill", ["-9", "#{pid}"])
    %{run | hung: true}
  end

  defp line("@" <> said, run, from) do
    [what | pairs] = String.split(said)
    values = Map.new(pairs, &(&1 |> String.split("=", parts: 2) |> List.to_tuple()))
    said(what, values, run, from)
  end

  # Log lines of the node, and the last words of its VM.
  defp line(text, run, from),
    do: {%{run | no_memory: run.no_memory or text =~ "Cannot allocate"}, from}

  defp said("ready", _, run, from),
    do: {run, %{from | zero: now(), usage: Limit.usage(from.limit, from.pid)}}

  defp said("status", values, run, from) do
    run = %{run | statuses: [{seconds(from), values} | run.statuses]}
    from.watch.(run)
    {run, from}
  end

  defp said("level", %{"level" => level}, run, from),
    do: {%{run | levels: [{seconds(from), level} | run.levels]}, from}

  defp said("load", _, run, from), do: {%{run | load: seconds(from)}, from}
  defp said("load_over", _, run, from), do: {%{run | load_over: seconds(from)}, from}
  defp said("result", values, run, from), do: {%{run | result: values}, from}

  defp said(what, values, run, from) when what in ["late", "other"],
    do: {%{run | problems: [{what, values} | run.problems]}, from}

  defp seconds(%{zero: nil}), do: nil
  defp seconds(%{zero: zero}), do: (now() - zero) / 1_000

  defp now, do: System.monotonic_time(:millisecond)
end
