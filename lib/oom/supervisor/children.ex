defmodule OOM.Supervisor.Children do
  @moduledoc false
  # Which child a pid is, kept in the supervisor's own process dictionary: the state of the
  # process is OTP's and stays as OTP knows it. Holds at most one pid per child id.

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
  Tells the supervisor of a worker what was said of that since it was started. The worker's row says it,
  too, but may be gone when its supervisor hears of its end; a message of its own comes before that.
  """
  @spec tell(pid(), keyword()) :: :ok
  def tell(pid, said) do
    with {_, _, _, _, _, supervisor, _, _, _} when is_pid(supervisor) <- Workers.lookup(pid),
         :oom <- Tree.kind(supervisor),
         do: send(supervisor, {__MODULE__, pid, said})

    :ok
  end

  @doc "What is known of it from now on, besides its specification."
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

  @doc "Forgets a process that has ended, unless its child has a new one already."
  @spec ended(pid()) :: :ok
  def ended(pid) do
    case get(pid) do
      {id, _options} -> forget(id)
      nil -> :ok
    end
  end

  @doc "Forgets all but these: a strategy has ended others along with the one that failed."
  @spec keep([pid()]) :: :ok
  def keep(pids) do
    pids = MapSet.new(pids)

    for {{__MODULE__, pid}, {id, _options}} <- Process.get(),
        not MapSet.member?(pids, pid),
        do: forget(id)

    :ok
  end
end
