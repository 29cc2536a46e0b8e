defmodule Arena.Run do
  @moduledoc false
  # One run, seen from outside: what its VM said, and how it ended.

  alias Arena.{Job, Patience, Say}

  # For a VM that hangs; it has this long besides its load: to start, to fill and for last answers.
  @patience_ms 60_000

  @contain "bench/arena/contain.sh"

  @enforce_keys [:job, :log]
  defstruct [
    :job,
    :log,
    :status,
    # of the code that decided, see Arena.DecisionCode, and the release it ran on
    :hash,
    :otp,
    facts: [],
    peak: nil,
    oom_kills: nil,
    pid: nil,
    hung?: false
  ]

  @type t :: %__MODULE__{}

  @spec run(Job.t(), [String.t()], Path.t()) :: t()
  def run(job, vm, log) do
    File.mkdir_p!(Path.dirname(log))
    args = [@contain, "#{job.limit_bytes}" | vm] ++ [Job.encode(job)]

    port =
      Port.open({:spawn_executable, System.find_executable("bash")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 4_096,
        args: args,
        env: [
          # The dump of a VM that fails to allocate takes longer than the run.
          {~c"ERL_CRASH_DUMP_BYTES", ~c"0"},
          {~c"ARENA_BURNERS", ~c"#{job.burners}"},
          {~c"ARENA_QUOTA_PERCENT", ~c"#{job.quota_percent}"}
        ]
      ])

    timer =
      Process.send_after(
        self(),
        {:hung, port},
        job.seconds * 1_000 + Patience.times(@patience_ms)
      )

    run = %__MODULE__{job: job, log: log, otp: System.otp_release()}
    run = File.open!(log, [:write], &listen(run, port, &1))
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

  @doc "Why there can be no CPU quota here, or `nil`."
  @spec no_quota() :: String.t() | nil
  def no_quota do
    case System.cmd("bash", [@contain, "--can-quota"], stderr_to_stdout: true) do
      {_, 0} -> nil
      {text, _} -> String.trim(text)
    end
  end

  @doc "The VM lives, and its culprits are over; see Arena.Judge."
  @spec survived?(t()) :: boolean()
  def survived?(run),
    do: lived?(run) and run.facts[:decision] in [:ended, :still, :returning]

  @doc "Neither did an innocent die, nor was one too late with an answer."
  @spec clean?(t()) :: boolean()
  def clean?(run), do: (run.facts[:innocents_lost] || 0) == 0

  defp lived?(run), do: run.status == 0 and not run.hung?

  @doc "In a few words."
  @spec verdict(t()) :: String.t()
  def verdict(%{hung?: true}), do: "HUNG"

  def verdict(%{status: 0, facts: facts} = run) do
    case facts[:decision] do
      :ended -> "ended at #{seconds(facts[:decided_ms])}s"
      :still -> "still at #{seconds(facts[:decided_ms])}s, #{facts[:culprits_left]} left"
      :returning -> "survived"
      :not_loaded -> "NOT LOADED: #{held_percent(run)} % held"
      _ -> "NOT DECIDED: #{facts[:culprits_left]} left"
    end
  end

  def verdict(%{status: status} = run) do
    how =
      cond do
        is_integer(run.oom_kills) and run.oom_kills > 0 -> "oom_kill #{run.oom_kills}"
        is_integer(status) and status > 128 -> "signal #{status - 128}"
        true -> "exit #{inspect(status)}"
      end

    "DIED #{how} at #{seconds(run.facts[:ms] || 0)}s"
  end

  @doc "How much of the limit was used when the culprits began."
  @spec held_percent(t()) :: float()
  def held_percent(run),
    do: Float.round((run.facts[:filled_bytes] || 0) * 100 / run.job.limit_bytes, 1)

  defp seconds(ms), do: Float.round(ms / 1_000, 1)

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
  defp heard({:result, facts}, run), do: %{run | facts: facts}

  # The result is the last word: what a witness was about to say may come after it.
  defp heard({:facts, facts}, run),
    do: if(run.facts[:decision], do: run, else: %{run | facts: facts})

  defp heard({:outside, facts}, run),
    do: %{run | status: facts[:status], oom_kills: facts[:oom_kills], peak: facts[:peak]}

  defp heard(_other, run), do: run
end
