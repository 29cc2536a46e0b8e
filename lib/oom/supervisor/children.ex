defmodule OOM.Supervisor.Children do
  @moduledoc false
  # The child of each pid, in the supervisor's process dictionary, because the process state is OTP's and
  # stays as OTP knows it. At most one pid per child id.

  alias OOM.{Tree, Workers}

  @type entry :: {id :: term(), options :: keyword()}

  @spec put(pid(), term(), keyword()) :: :ok
  def put(pid, id, options) do
    forget(id)
    Process.put({__MODULE__, pid}, {id, options})
    Process.put({__MODULE__, :id, id}, pid)
    :ok
  end

  @spec get(pid()) :: entry() | nil
  def get(pid), do: Process.get({__MODULE__, pid})

  @doc """
  Tells the supervisor of a worker the options set since its start. The worker's row has these options too,
  but may be gone when the supervisor hears of the exit; a message from the worker comes before the exit.
  """
  @spec tell(pid(), keyword()) :: :ok
  def tell(pid, said) do
    with {_, _, _, _, _, supervisor, _, _, _} when is_pid(supervisor) <- Workers.lookup(pid),
         :oom <- Tree.kind(supervisor),
         do: send(supervisor, {__MODULE__, pid, said})

    :ok
  end

  @doc "Adds options set since the start to the options from the child's specification."
  @spec said(pid(), keyword()) :: :ok
  def said(pid, said) do
    with {id, options} <- get(pid),
         do: Process.put({__MODULE__, pid}, {id, Keyword.merge(options, said)})

    :ok
  end

  @spec pid(term()) :: pid() | nil
  def pid(id), do: Process.get({__MODULE__, :id, id})

  @spec forget(term()) :: :ok
  def forget(id) do
    with pid when is_pid(pid) <- Process.delete({__MODULE__, :id, id}),
         do: Process.delete({__MODULE__, pid})

    :ok
  end

  @doc "Forgets an ended process, unless the child has a new process already."
  @spec ended(pid()) :: :ok
  def ended(pid) do
    case get(pid) do
      {id, _options} -> forget(id)
      nil -> :ok
    end
  end

  @doc "Forgets all children but these: a strategy has ended siblings along with a failed child."
  @spec keep([pid()]) :: :ok
  def keep(pids) do
    pids = MapSet.new(pids)

    for {{__MODULE__, pid}, {id, _options}} <- Process.get(),
        not MapSet.member?(pids, pid),
        do: forget(id)

    :ok
  end
end
