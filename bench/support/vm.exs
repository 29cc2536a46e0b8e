Code.require_file("../../test/support/cgroup.ex", __DIR__)

defmodule Bench.VM do
  @moduledoc false
  # A separate VM, controlled over its standard input and output: measurements start from nothing,
  # and the VM may die. With a limit the VM runs in a separate cgroup.

  alias OOM.Test.Cgroup

  @enforce_keys [:peer, :os_pid]
  defstruct [:peer, :os_pid, :cgroup]

  @type t :: %__MODULE__{}

  @doc """
  Runs `fun` with a VM with `modules` loaded (as `Code.require_file/2` returns them), and ends the
  VM.

  ## Options

    * `:oom` - the configuration for `:oom`. Without it, `:oom` does not run
    * `:limit_bytes` - the limit of the cgroup
    * `:flags` - flags of the emulator
  """
  @spec with_vm([{module(), binary()}], keyword(), (t() -> result)) :: result when result: var
  def with_vm(modules, options, fun) do
    cgroup = options[:limit_bytes] && Cgroup.create!(options[:limit_bytes])

    try do
      vm = start(cgroup, options)

      try do
        for {module, code} <- modules do
          {:module, ^module} = call(vm, :code, :load_binary, [module, ~c"bench", code])
        end

        oom(vm, options[:oom])
        fun.(vm)
      after
        stop(vm.peer)
      end
    after
      if cgroup, do: Cgroup.destroy(cgroup)
    end
  end

  @doc "Calls a function in the VM; exits where the VM dies before the answer."
  @spec call(t(), module(), atom(), [term()]) :: term()
  def call(vm, module, function, args \\ []),
    do: :peer.call(vm.peer, module, function, args, :infinity)

  @doc "Like `call/4`, where the VM may die of the call."
  @spec try_call(t(), module(), atom(), [term()]) :: {:ok, term()} | :dead
  def try_call(vm, module, function, args) do
    {:ok, call(vm, module, function, args)}
  catch
    :exit, _ -> :dead
  end

  @doc "Returns the CPU time of the VM's threads with this name prefix, to the nanosecond."
  @spec cpu_ns(t(), String.t()) :: non_neg_integer()
  def cpu_ns(vm, name \\ "") do
    for task <- Path.wildcard("/proc/#{vm.os_pid}/task/*"),
        # A thread may have ended in between.
        {:ok, comm} <- [File.read(task <> "/comm")],
        String.starts_with?(comm, name),
        {:ok, text} <- [File.read(task <> "/schedstat")],
        reduce: 0 do
      sum -> sum + (text |> String.split() |> hd() |> String.to_integer())
    end
  end

  @spec rss_bytes(t()) :: non_neg_integer()
  def rss_bytes(vm) do
    [_, kib] = Regex.run(~r/^VmRSS:\s+(\d+) kB$/m, File.read!("/proc/#{vm.os_pid}/status"))
    String.to_integer(kib) * 1_024
  end

  defp start(cgroup, options) do
    enter = if cgroup, do: ~s(echo $$ > "#{Cgroup.procs(cgroup)}" && ), else: ""
    paths = Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
    flags = Enum.map(options[:flags] || [], &to_charlist/1)

    {:ok, peer, _node} =
      :peer.start(%{
        connection: :standard_io,
        exec: {~c"/bin/sh", [~c"-c", to_charlist(enter <> ~s(exec erl "$@")), ~c"sh"]},
        # No dump, and no reports of processes ended on purpose. Schedulers spinning before sleep
        # would count as work.
        args:
          paths ++
            flags ++
            [~c"+sbwt", ~c"none", ~c"+sbwtdcpu", ~c"none", ~c"+sbwtdio", ~c"none"] ++
            [~c"-env", ~c"ERL_CRASH_DUMP_BYTES", ~c"0"] ++
            [~c"-kernel", ~c"logger_level", ~c"none"],
        wait_boot: 60_000
      })

    vm = %__MODULE__{peer: peer, os_pid: nil, cgroup: cgroup}
    # In every VM, so the cost of the logger is not taken for OOM's.
    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])
    call(vm, :logger, :set_primary_config, [:level, :none])
    %{vm | os_pid: vm |> call(:os, :getpid) |> to_string()}
  end

  defp oom(_vm, nil), do: :ok

  defp oom(vm, config) do
    :ok = call(vm, :application, :load, [:oom])
    for {key, value} <- config, do: call(vm, :application, :set_env, [:oom, key, value])
    {:ok, _} = call(vm, :application, :ensure_all_started, [:oom])
  end

  defp stop(peer) do
    :peer.stop(peer)
  catch
    :exit, _ -> :ok
  end
end
