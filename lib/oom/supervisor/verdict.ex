defmodule OOM.Supervisor.Verdict do
  @moduledoc false
  # Decides whether a child left because of memory, and keeps the children whose verdict comes later. Called
  # in the supervisor.
  #
  # A victim of memory is a child marked by the guard, named by the VM's heap report (OOM.HeapReports), or
  # ended with the victims' exit reason. Any other end is an ordinary crash.
  #
  # `:killed` does not name the killer. A child with a heap cap may have been killed by the VM, which then
  # sends a report with the exit, so the restart waits until the report is read. A protected worker never
  # waits: the supervisor restarts a protected worker at once, whatever the reason.

  alias OOM.{Child, HeapReports, Tables, Victims}

  # Without an answer by then from the reader of the VM's reports, a `:killed` child with a cap counts as an
  # ordinary crash. Loops within one timeslice have kept the reader from running for less than this.
  @verdict_ms 5_000

  @typedoc "`:ended`: a supervisor that ended because of a kill below."
  @type t :: :memory | :ended | :unknown | :other

  @spec on(pid(), term(), keyword()) :: t()
  def on(pid, reason, options) do
    cond do
      # While the application is stopped, no process could bring the child back.
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

  # The priority of a protected supervisor is the priority of the workers below.
  defp protected?(options),
    do: (worker?(options) or options[:unit] == true) and Child.rank(options) == :protected

  # See OOM.Visit.ending/0.
  defp ended?(:shutdown, options), do: options[:type] == :supervisor and options[:unit] != true
  defp ended?(_reason, _options), do: false

  @doc "Notes that the verdict on this child comes later, as the message `{OOM.Supervisor.Verdict, pid}`."
  @spec wait_for(pid(), term()) :: reference()
  def wait_for(pid, reason) do
    Process.put(__MODULE__, [{pid, reason} | pending()])
    HeapReports.tell_when_read(fn -> Victims.marked?(pid) end, {__MODULE__, pid})
    Process.send_after(self(), {__MODULE__, pid}, @verdict_ms)
  end

  @doc "Returns the children without a verdict yet, the last child first, and how each ended."
  @spec pending() :: [{pid(), reason :: term()}]
  def pending, do: Process.get(__MODULE__, [])

  @doc "Returns how this child ended and removes it from the pending children; `nil` if not pending."
  @spec take(pid()) :: {:ok, reason :: term()} | nil
  def take(pid) do
    with {{^pid, reason}, rest} <- List.keytake(pending(), pid, 0) do
      Process.put(__MODULE__, rest)
      {:ok, reason}
    end
  end
end
