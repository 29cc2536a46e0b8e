defmodule OOM.Supervisor.Verdict do
  @moduledoc false
  # Whether a child left because of memory, and the children whose verdict comes later. Called in the supervisor.
  #
  # A victim of memory is a child that the guard has marked, that the VM's heap report names (OOM.HeapReports), or
  # that leaves with the reason of victims. Any other end is a crash like any other.
  #
  # `:killed` says nothing of the killer. Where the VM may have killed, because there is a cap, the VM makes a
  # report with the exit, and the restart waits until the report is read. A protected worker never waits: the
  # supervisor restarts a protected worker at once, whatever the reason.

  alias OOM.{Child, HeapReports, Tables, Victims}

  # By then a `:killed` child that has a cap is a crash like any other, if the reader of the VM's reports does
  # not answer. Longer than loops within one timeslice have kept it from running.
  @verdict_ms 5_000

  @typedoc "`:ended`: a supervisor that ended because of what was killed below it."
  @type t :: :memory | :ended | :unknown | :other

  @spec on(pid(), term(), keyword()) :: t()
  def on(pid, reason, options) do
    cond do
      # While the application is stopped nobody could bring it back.
      Tables.config() == nil or Tables.stopping?() -> :other
      protected?(options) -> :other
      reason == {:shutdown, :memory_pressure} -> :memory
      Victims.marked?(pid) -> if ended?(reason, options), do: :ended, else: :memory
      reason != :killed or not worker?(options) -> :other
      Child.capped?(options) -> :unknown
      true -> :other
    end
  end

  defp worker?(options), do: Keyword.get(options, :type, :worker) == :worker

  # A protected supervisor means protected workers below.
  defp protected?(options),
    do: (worker?(options) or options[:unit] == true) and Child.rank(options) == :protected

  # See OOM.Visit.ending/0.
  defp ended?(:shutdown, options), do: options[:type] == :supervisor and options[:unit] != true
  defp ended?(_reason, _options), do: false

  @doc "The verdict on this child comes later, as the message `{OOM.Supervisor.Verdict, pid}`."
  @spec wait_for(pid(), term()) :: reference()
  def wait_for(pid, reason) do
    Process.put(__MODULE__, [{pid, reason} | pending()])
    HeapReports.tell_when_read(fn -> Victims.marked?(pid) end, {__MODULE__, pid})
    Process.send_after(self(), {__MODULE__, pid}, @verdict_ms)
  end

  @doc "The children on whom there is no verdict yet, the last one first, and how each ended."
  @spec pending() :: [{pid(), reason :: term()}]
  def pending, do: Process.get(__MODULE__, [])

  @doc "How this child ended, if there was no verdict yet; the child waits no longer. Else `nil`."
  @spec take(pid()) :: {:ok, reason :: term()} | nil
  def take(pid) do
    with {{^pid, reason}, rest} <- List.keytake(pending(), pid, 0) do
      Process.put(__MODULE__, rest)
      {:ok, reason}
    end
  end
end
