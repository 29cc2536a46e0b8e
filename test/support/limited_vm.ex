defmodule OOM.Test.LimitedVM do
  @moduledoc false
  # A separate VM inside a real cgroup, controlled over its standard input and output, so it may
  # die without taking the tests along.

  alias OOM.Test.{Cgroup, Patience}

  defstruct [:peer, :cgroup, :os_pid]

  @type t :: %__MODULE__{}

  @doc """
  Starts a VM under `limit_bytes`, or in the given cgroup, with the `:oom` application running on
  `config`; `config: nil` leaves OOM out. `through` is a command that starts the command after it.
  The VM ends with the test.
  """
  @spec start!(pos_integer() | Cgroup.t(), keyword() | nil, String.t()) :: t()
  def start!(limit, config, through \\ "")

  def start!(limit_bytes, config, through) when is_integer(limit_bytes) do
    cgroup = Cgroup.create!(limit_bytes)
    ExUnit.Callbacks.on_exit(fn -> Cgroup.destroy(cgroup) end)
    start!(cgroup, config, through)
  end

  def start!(cgroup, config, through) do
    script = ~s(echo $$ > "#{Cgroup.procs(cgroup)}" && exec #{through} erl "$@")
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

    {:ok, peer, _node} =
      :peer.start(%{
        connection: :standard_io,
        exec: {~c"/bin/sh", [~c"-c", to_charlist(script), ~c"sh"]},
        args: paths ++ [~c"-env", ~c"ERL_CRASH_DUMP_BYTES", ~c"0"],
        wait_boot: Patience.times(60_000)
      })

    ExUnit.Callbacks.on_exit(fn -> stop(%{peer: peer}) end)
    vm = %__MODULE__{peer: peer, cgroup: cgroup}
    # The guard's log would drown the tests; the events still pass the filters.
    call(vm, :logger, :remove_handler, [:default])

    for {key, value} <- silence(), do: set_env(vm, :logger, key, value)

    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])

    if config do
      call(vm, :application, :load, [:oom])
      for {key, value} <- config, do: set_env(vm, :oom, key, value)
      {:ok, _} = call(vm, :application, :ensure_all_started, [:oom])
    end

    %{vm | os_pid: call(vm, System, :pid, [])}
  end

  @spec call(t(), module(), atom(), [term()], pos_integer()) :: term()
  def call(vm, module, function, args, timeout \\ 120_000),
    do: :peer.call(vm.peer, module, function, args, Patience.times(timeout))

  @doc "Tells whether the VM still answers."
  @spec alive?(t()) :: boolean()
  def alive?(vm), do: Process.alive?(vm.peer) and File.exists?("/proc/#{vm.os_pid}")

  # Elixir 1.15 has a default handler in place of the backends.
  defp silence do
    if Version.match?(System.version(), ">= 1.15.0"),
      do: [default_handler: false],
      else: [backends: []]
  end

  defp set_env(vm, app, key, value),
    do: call(vm, :application, :set_env, [app, key, value, [persistent: true]])

  @doc "Ends the VM, if still running."
  @spec stop(%{:peer => pid(), optional(atom()) => term()}) :: :ok
  def stop(%{peer: peer}) do
    :peer.stop(peer)
  catch
    # The VM is dead already, possibly the subject of the test.
    :exit, _ -> :ok
  end
end
