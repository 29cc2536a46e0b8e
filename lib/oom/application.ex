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

    # The children do not depend on one another: the owner of the tables and the heir keep the tables for each
    # other, and the keeper has no state besides its parts. The end of a child from outside must not end the
    # application, and with it the node of a release.
    children = [OOM.Tables.Heir, {OOM.Tables, config}, {OOM.Keeper, parts(config)}]
    options = [strategy: :one_for_one, max_restarts: 20, name: OOM.Application]

    with {:ok, pid} <- Supervisor.start_link(children, options) do
      OOM.Supervisor.Rejoin.start()
      {:ok, pid}
    end
  end

  # Held children come back now, because later nothing would bring them back. The guard ends first, so that
  # no further kill adds a hold.
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

  # Outside of releases the first call to a module loads it, through the code server and from disk. On the
  # way to a kill, such a load took longer than the memory lasted. So the modules called by the guard, the
  # accountant and the supervisors are listed here; a test compares the loaded modules before and after a
  # round of kills.
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

  # A restarted part finds its state in the tables, so no part takes another down.
  defp parts(config),
    do:
      [
        OOM.HeapReports,
        OOM.Reporter,
        OOM.Leftovers,
        OOM.Notifier,
        OOM.Accountant,
        OOM.Asker,
        OOM.Shed,
        OOM.Holds,
        OOM.Tree.Census,
        OOM.Tree.Adoption,
        OOM.Bonds.Rounds,
        OOM.HeapCaps,
        {OOM.Guard, config}
      ] ++ Enum.map(config.bridges, &{OOM.Bridge, &1})
end
