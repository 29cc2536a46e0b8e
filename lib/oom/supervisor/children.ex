defmodule OOM.Supervisor.Children do
  @moduledoc false
  # Which child a pid is, kept in the supervisor's own process dictionary: the state of the
  # process is OTP's and stays as OTP knows it. Holds at most one pid per child id.

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

  @spec pid(term()) :: pid() | nil
  def pid(id), do: Process.get({__MODULE__, :id, id})

  @spec forget(term()) :: :ok
  def forget(id) do
    with pid when is_pid(pid) <- Process.delete({__MODULE__, :id, id}),
         do: Process.delete({__MODULE__, pid})

    :ok
  end

  @doc "Forgets the temporary ones that are not among these, which the supervisor still knows."
  @spec keep([term()]) :: :ok
  def keep(ids) do
    known = MapSet.new(ids)

    for {{__MODULE__, pid}, {id, options}} when is_pid(pid) <- Process.get(),
        options[:restart] == :temporary and not MapSet.member?(known, id),
        do: forget(id)

    :ok
  end
end
