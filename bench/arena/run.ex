defmodule Arena.Run do
  @moduledoc false
  # One run, seen from outside: the messages of its VM, and the end of the VM.

  alias Arena.{Job, Patience, Say}

  # For a hanging VM: the time besides its load to start, to fill and for last answers.
  @patience_ms 60_000

  @contain "bench/arena/contain.sh"

  @enforce_keys [:job, :log]
  defstruct [
    :job,
    :log,
    :status,
    # hash of the deciding code, see Arena.DecisionCode, and the OTP release of the run
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

  @doc "Returns the command for a VM with the code paths of this VM."
  @spec vm() :: [String.t()]
  def vm do
    paths = for path <- :code.get_path(), own?(to_string(path)), arg <- ["-pa", path], do: arg
    elixir = System.find_executable("elixir") || raise "elixir was not found in PATH"
    # An interrupt ends the VM, and opens no menu.
    [elixir, "--erl", "+Bd" | paths] ++ ["-e", "Arena.Node.main(System.argv())", "--"]
  end

  # Paths built by elixirc and mix; every VM has the rest.
  defp own?(path), do: String.contains?(path, "/_build/")

  @doc "Returns why a CPU quota is impossible here, or `nil`."
  @spec no_quota() :: String.t() | nil
  def no_quota do
    case System.cmd("bash", [@contain, "--can-quota"], stderr_to_stdout: true) do
      {_, 0} -> nil
      {text, _} -> String.trim(text)
    end
  end

  @doc "Tells whether the VM lives, and its culprits are over; see Arena.Judge."
  @spec survived?(t()) :: boolean()
  def survived?(run),
    do: lived?(run) and run.facts[:decision] in [:ended, :still, :returning]

  @doc "Tells whether no innocent died or answered too late."
  @spec clean?(t()) :: boolean()
  def clean?(run), do: (run.facts[:innocents_lost] || 0) == 0

  defp lived?(run), do: run.status == 0 and not run.hung?

  @doc "Returns the verdict in a few words."
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

  @doc "Returns the used percent of the limit when the culprits began."
  @spec held_percent(t()) :: float()
  def held_percent(run),
    do: Float.round((run.facts[:filled_bytes] || 0) * 100 / run.job.limit_bytes, 1)

  defp seconds(ms), do: Float.round(ms / 1_000, 1)

  @doc """
  Returns the size of all victims of the first round, divided by the bytes missing at its trigger;
  `nil` where nobody was killed. Also `nil` where time was short rather than room: next to nothing
  was missing yet.
  """
  @spec overkill(t()) :: float() | nil
  def overkill(%{facts: facts}) do
    if (facts[:deficit_bytes] || 0) > 1_048_576, do: facts[:victims_bytes] / facts[:deficit_bytes]
  end

  @doc "Returns ms until relief; `nil` where never critical, `:never` where critical until the end."
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

      # The VM died in the shell already, and its own status says nothing more, unless it never
      # began.
      {^port, {:exit_status, status}} ->
        %{run | status: run.status || {:not_started, status}}

      {:hung, ^port} ->
        if run.pid, do: System.cmd("kill", ["-9", "#{run.pid}"])
        listen(%{run | hung?: true}, port, log)
    end
  end

  defp heard({:ready, facts}, run), do: %{run | pid: facts[:pid]}
  defp heard({:result, facts}, run), do: %{run | facts: facts}

  # The result is the last word: a late message of a witness may come after it.
  defp heard({:facts, facts}, run),
    do: if(run.facts[:decision], do: run, else: %{run | facts: facts})

  defp heard({:outside, facts}, run),
    do: %{run | status: facts[:status], oom_kills: facts[:oom_kills], peak: facts[:peak]}

  defp heard(_other, run), do: run
end
