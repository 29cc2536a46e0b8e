defmodule Arena.Run do
  @moduledoc false
  # One run, seen from outside: what its VM said, and how it ended.

  alias Arena.{Job, Say}

  # For a VM that hangs; it has this long besides its load.
  @patience_ms 30_000

  @enforce_keys [:job, :log]
  defstruct [:job, :log, :status, facts: [], peak: nil, oom_kills: nil, pid: nil, hung?: false]

  @type t :: %__MODULE__{}

  @spec run(Job.t(), [String.t()], Path.t()) :: t()
  def run(job, vm, log) do
    File.mkdir_p!(Path.dirname(log))
    contain = "bench/arena/contain.sh"
    args = [contain, "#{job.limit_bytes}" | vm] ++ [Job.encode(job)]

    port =
      Port.open({:spawn_executable, System.find_executable("bash")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 4_096,
        args: args,
        # The dump of a VM that fails to allocate takes longer than the run.
        env: [{~c"ERL_CRASH_DUMP_BYTES", ~c"0"}]
      ])

    timer = Process.send_after(self(), {:hung, port}, job.seconds * 1_000 + @patience_ms)
    run = File.open!(log, [:write], &listen(%__MODULE__{job: job, log: log}, port, &1))
    Process.cancel_timer(timer)
    run
  end

  @doc "The command for a VM that knows what this one does."
  @spec vm() :: [String.t()]
  def vm do
    paths = for path <- :code.get_path(), own?(to_string(path)), arg <- ["-pa", path], do: arg
    elixir = System.find_executable("elixir") || raise "elixir was not found in PATH"
    # An interrupt ends it, and opens no menu.
    [elixir, "--erl", "+Bd" | paths] ++ ["-e", "Arena.Node.main(System.argv())", "--"]
  end

  # What elixirc and mix built; the rest every VM has.
  defp own?(path), do: String.contains?(path, "/_build/")

  @spec survived?(t()) :: boolean()
  def survived?(run), do: run.status == 0 and not run.hung?

  @doc "In a few words."
  @spec verdict(t()) :: String.t()
  def verdict(%{hung?: true}), do: "HUNG"
  def verdict(%{status: 0}), do: "survived"

  def verdict(%{status: status} = run) do
    how =
      cond do
        is_integer(run.oom_kills) and run.oom_kills > 0 -> "oom_kill #{run.oom_kills}"
        is_integer(status) and status > 128 -> "signal #{status - 128}"
        true -> "exit #{inspect(status)}"
      end

    "DIED #{how} at #{Float.round((run.facts[:ms] || 0) / 1_000, 1)}s"
  end

  @doc """
  What all victims of the first round held, by what was missing at its trigger; `nil` where nobody
  was killed. Where time was short rather than room, next to nothing was missing yet: `nil`.
  """
  @spec overkill(t()) :: float() | nil
  def overkill(%{facts: facts}) do
    if (facts[:deficit_bytes] || 0) > 1_048_576, do: facts[:victims_bytes] / facts[:deficit_bytes]
  end

  @doc "`nil` where it was never critical, `:never` where it did not get over it."
  @spec relief_ms(t()) :: non_neg_integer() | :never | nil
  def relief_ms(%{facts: facts}) do
    case {facts[:critical], facts[:relief_ms]} do
      {1, -1} -> :never
      {1, ms} -> ms
      _ -> nil
    end
  end

  defp listen(run, port, log) do
    receive do
      {^port, {:data, {_, line}}} ->
        IO.puts(log, line)
        line |> String.trim() |> Say.heard() |> heard(run) |> listen(port, log)

      # It died in the shell already, whose own status says nothing more, unless it never began.
      {^port, {:exit_status, status}} ->
        %{run | status: run.status || {:not_started, status}}

      {:hung, ^port} ->
        if run.pid, do: System.cmd("kill", ["-9", "#{run.pid}"])
        listen(%{run | hung?: true}, port, log)
    end
  end

  defp heard({:ready, facts}, run), do: %{run | pid: facts[:pid]}
  defp heard({what, facts}, run) when what in [:facts, :result], do: %{run | facts: facts}

  defp heard({:outside, facts}, run),
    do: %{run | status: facts[:status], oom_kills: facts[:oom_kills], peak: facts[:peak]}

  defp heard(_other, run), do: run
end
