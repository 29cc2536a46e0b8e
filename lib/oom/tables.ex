defmodule OOM.Tables do
  @moduledoc false
  # Owns the ETS tables, and does nothing else: so that a crash of the guard, of the accountant or
  # of the holds loses no registration, no plan and no hold.

  use GenServer

  @tables [
    # {pid, rank, bytes, sampled_ms, state, supervisor, id, options, work}; see OOM.Workers
    {OOM.Workers, [:set, write_concurrency: true, read_concurrency: true]},
    # {{rank, -bytes, pid}}: the first one dies first; see OOM.Plan
    {OOM.Plan, [:ordered_set]},
    # {{kind, pid}, bytes, detail, reading}; see OOM.Owned
    {OOM.Owned, [:set, read_concurrency: true]},
    # {pid, bytes}; see OOM.Appended. Ordered, because it is walked while it changes.
    {OOM.Appended, [:ordered_set]},
    # {pid, killed_ms, bytes}: who was told to leave, for supervisors that see only `:killed`
    {OOM.Victims, [:set]},
    # {pid, kind, parent, options, facts}: the supervisors below; see OOM.Tree
    {OOM.Tree, [:set, read_concurrency: true]},
    # {pid, own rank, floor}: those who would take others along; see OOM.Units
    {OOM.Units, [:set, read_concurrency: true]},
    # {{supervisor, id}, %OOM.Hold{}}
    {OOM.Holds, [:set]},
    # {:watcher, reference} and {:config, %OOM.Config{}}
    {OOM.State, [:set, read_concurrency: true]}
  ]

  @spec start_link(OOM.Config.t()) :: GenServer.on_start()
  def start_link(config), do: GenServer.start_link(__MODULE__, config, name: __MODULE__)

  @impl true
  def init(config) do
    for {name, options} <- @tables, do: :ets.new(name, [:named_table, :public | options])
    :ets.insert(OOM.State, {:config, config})
    {:ok, nil}
  end

  @doc "The validated configuration, or `nil` where the application does not run."
  @spec config() :: OOM.Config.t() | nil
  def config, do: state(:config)

  @doc "The running watcher, or `nil`."
  @spec watcher() :: reference() | nil
  def watcher, do: state(:watcher)

  @spec put_watcher(reference() | nil) :: true
  def put_watcher(nil), do: :ets.delete(OOM.State, :watcher)
  def put_watcher(ref), do: :ets.insert(OOM.State, {:watcher, ref})

  # The tables are gone while the application is stopped; that is a state, not an error.
  defp state(key) do
    case :ets.lookup(OOM.State, key) do
      [{_, value}] -> value
      [] -> nil
    end
  rescue
    ArgumentError -> nil
  end
end
