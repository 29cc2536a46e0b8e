defmodule Arena.Guard do
  @moduledoc false
  # The protection of the VM under load. The same load and the same canary run under each guard;
  # see bench/rivals for guards besides OOM.

  alias Arena.Job

  @doc "Starts the guard in the VM, before the application under load."
  @callback start(arg :: term(), Job.t()) :: term()

  @doc "Starts a supervisor for a part of the application, with the options for OOM."
  @callback supervisor([:supervisor.child_spec() | module()], oom :: keyword()) ::
              Supervisor.on_start()

  @spec start(Job.t()) :: term()
  def start(%{guard: {module, arg}} = job), do: module.start(arg, job)

  @spec supervisor(Job.t(), [:supervisor.child_spec() | module()], keyword()) ::
          Supervisor.on_start()
  def supervisor(%{guard: {module, _arg}}, children, oom), do: module.supervisor(children, oom)
end

defmodule Arena.WithOOM do
  @moduledoc false
  # OOM, with the options of its application.
  @behaviour Arena.Guard

  alias Arena.{Ear, Witness}

  @impl true
  def start(options, job) do
    for {name, value} <- options ++ job.config, do: Application.put_env(:oom, name, value)
    Application.put_env(:oom, :on_exhausted, &__MODULE__.exhausted/1)
    {:ok, _} = Application.ensure_all_started(:oom)
    Code.ensure_loaded!(OOM.Supervisor)
    {:ok, _} = Ear.start_link()
  end

  @doc false
  def exhausted(_snapshot), do: send(Witness, :exhausted)

  # A crash must show, not multiply.
  @impl true
  def supervisor(children, oom),
    do: OOM.Supervisor.start_link(children, strategy: :one_for_one, max_restarts: 0, oom: oom)
end
