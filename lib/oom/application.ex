defmodule OOM.Application do
  @moduledoc false
  # The application environment is read here and nowhere else.

  use Application

  @impl true
  def start(_type, _args) do
    config = :oom |> Application.get_all_env() |> OOM.Config.new!() |> OOM.Config.reachable!()
    load_modules()
    OOM.Level.setup()
    OOM.Supervisor.Reports.install()

    # Whichever of them ends, the others need not know: the tables' owner and its heir do nothing and
    # have each other's, and the keeper has nothing but its parts. Ended from outside they must not
    # be why the application, and in a release the node, ends.
    children = [OOM.Tables.Heir, {OOM.Tables, config}, {OOM.Keeper, parts(config)}]
    options = [strategy: :one_for_one, max_restarts: 20, name: OOM.Application]
    Supervisor.start_link(children, options)
  end

  # What is held comes back, as there will be nobody to bring it. First the guard ends, so that it
  # does not make more of them.
  @impl true
  def prep_stop(state) do
    _ = Supervisor.terminate_child(OOM.Application, OOM.Keeper)
    OOM.Tables.put_stopping()
    OOM.Holds.let_go()
    state
  end

  @impl true
  def stop(_state) do
    OOM.Supervisor.Reports.uninstall()
    OOM.Level.put(:normal)
  end

  # Outside of releases a module is loaded by the first call to it, through the code server and
  # from disk. Met on the way to a kill, that took longer than the memory lasted. What the guard,
  # the accountant and the supervisors call is here; a test compares what is loaded before and
  # after a round of kills.
  @called [
    # Elixir
    Access,
    Atom,
    Collectable,
    Collectable.Map,
    DynamicSupervisor,
    Enum,
    Enumerable,
    Enumerable.List,
    Enumerable.Map,
    GenServer,
    Integer,
    Keyword,
    List,
    Logger,
    Map,
    Process,
    Stream.Reducers,
    String.Chars,
    Supervisor,
    System,
    # Erlang
    :ets,
    :gen,
    :gen_server,
    :inet,
    :lists,
    :maps,
    :ordsets,
    :proc_lib,
    :rand,
    :supervisor,
    :sys
  ]

  defp load_modules do
    {:ok, ours} = :application.get_key(:oom, :modules)
    _ = :code.ensure_modules_loaded(ours ++ @called)
    :ok
  end

  # Each finds its state in the tables again, so none takes another down.
  defp parts(config),
    do: [
      OOM.HeapReports,
      OOM.Reporter,
      OOM.Notifier,
      OOM.Accountant,
      OOM.Asker,
      OOM.Shed,
      OOM.Holds,
      OOM.Tree.Census,
      OOM.Bonds.Rounds,
      OOM.HeapCaps,
      {OOM.Guard, config}
    ]
end
