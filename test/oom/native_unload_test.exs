defmodule OOM.NativeUnloadTest do
  # The thread must be gone before its library is, or the VM crashes. Each case has a VM of its
  # own, which says at the end that it came so far.
  use ExUnit.Case, async: true

  @moduletag timeout: 120_000

  @prelude """
  alias OOM.Native
  config = %{min_interval_ms: 1, max_interval_ms: 1}

  # Critical from the first sample on, so that messages are on their way all the time.
  alarmed = Map.put(config, :limit_bytes, 1)

  threads = fn ->
    Enum.count(Path.wildcard("/proc/self/task/*/comm"), fn comm ->
      File.read(comm) == {:ok, "oom_watcher\\n"}
    end)
  end

  # A process that owns a watcher, and is known to.
  owner = fn config ->
    test = self()

    pid =
      spawn(fn ->
        {:ok, watcher} = Native.watcher_start(self(), config)
        send(test, {:up, self()})
        receive do: (:go -> watcher)
      end)

    receive do: ({:up, ^pid} -> pid)
  end

  await = fn await, condition ->
    condition.() || (Process.sleep(1) && await.(await, condition))
  end
  """

  defp vm(script, env \\ []) do
    ebin = Path.join(:code.lib_dir(:oom), "ebin")
    args = ["-pa", ebin, "-e", @prelude <> script]
    System.cmd(System.find_executable("elixir"), args, env: env, stderr_to_stdout: true)
  end

  test "delete and purge, with watchers of the living and of the dead" do
    script = """
    for round <- 1..100 do
      pid = owner.(if(rem(round, 2) == 0, do: config, else: alarmed))
      {:ok, mine} = Native.watcher_start(self(), alarmed)
      if rem(round, 5) == 0, do: Native.watcher_stop(mine)
      if rem(round, 3) == 0, do: Process.exit(pid, :kill)
      if rem(round, 7) == 0, do: Native.watcher_ack(mine)

      true = :code.delete(Native)
      :code.purge(Native)
      {:module, Native} = :code.ensure_loaded(Native)
      true = Native.loaded?()
      if rem(round, 3) != 0, do: send(pid, :go)
    end

    :erlang.garbage_collect()
    await.(await, fn -> threads.() == 0 end)
    IO.puts("came so far")
    """

    assert vm(script) == {"came so far\n", 0}
  end

  test "owners killed by the dozen" do
    script = """
    for _ <- 1..20 do
      pids = for _ <- 1..20, do: owner.(alarmed)
      Enum.each(pids, &Process.exit(&1, :kill))
    end

    await.(await, fn -> threads.() == 0 end)
    IO.puts("came so far")
    """

    assert vm(script) == {"came so far\n", 0}
  end

  for {how, call} <- [
        {"halt", ":erlang.halt(7)"},
        {"halt without flushing", ":erlang.halt(7, flush: false)"},
        {"init:stop", ":init.stop(7) && Process.sleep(:infinity)"}
      ] do
    test "#{how}, in the midst of messages" do
      script = """
      for _ <- 1..10, do: owner.(alarmed)
      {:ok, watcher} = Native.watcher_start(self(), alarmed)
      receive do: ({:oom_watch, :tick, _} -> Native.watcher_ack(watcher))
      #{unquote(call)}
      """

      for _ <- 1..5, do: assert(vm(script) == {"", 7})
    end
  end

  test "a reload is refused and the old version keeps its library" do
    script = """
    Logger.configure(level: :none)
    {:ok, watcher} = Native.watcher_start(self(), config)
    {:error, :on_load_failure} = :code.load_file(Native)
    true = Native.loaded?()
    true = Native.watcher_alive(watcher)
    IO.puts("came so far")
    """

    assert {output, 0} = vm(script)
    assert output =~ "came so far"
  end

  # As a release upgrade does, twice, so that no version of the start is left: with the thread running, and
  # without killing a process for the upgrade.
  test "every other module is loaded anew and the old one purged, and the guard still guards" do
    script = """
    Logger.configure(level: :none)
    Application.put_env(:oom, :limit, 200_000_000)
    Application.put_env(:oom, :max_heap_size, :infinity)
    # No brake: it is a helper's, and where one is at work just then, it is in old code.
    Application.put_env(:oom, :time_to_exhaustion_ms, elevated: 4_000, high: 1_000, critical: 0)
    {:ok, _} = Application.ensure_all_started(:oom)
    worker = OOM.child_spec({Agent, fn -> [] end}, priority: :low)
    {:ok, supervisor} = OOM.Supervisor.start_link([worker], strategy: :one_for_one)

    {:ok, modules} = :application.get_key(:oom, :modules)
    processes = fn -> for module <- modules, pid = Process.whereis(module), do: {module, pid} end
    [_ | _] = before = processes.()

    for _ <- 1..2, module <- modules -- [Native] do
      {:module, ^module} = :code.load_file(module)
      if :code.purge(module), do: IO.puts("processes in old code of \#{module}")
    end

    true = before == processes.()
    true = threads.() == 1
    [{_, pid, _, _}] = Supervisor.which_children(supervisor)
    ref = Process.monitor(pid)
    grow = fn grow ->
      Agent.cast(pid, fn held -> [Enum.to_list(1..100_000) | held] end)
      receive do: ({:DOWN, ^ref, _, _, reason} -> reason), after: (5 -> grow.(grow))
    end

    {:shutdown, :memory_pressure} = grow.(grow)
    await.(await, fn -> match?([%OOM.Held{}], OOM.held()) end)
    IO.puts("came so far")
    """

    assert vm(script) == {"came so far\n", 0}
  end

  test "without the library the module names the missing file" do
    script = """
    false = Native.loaded?()
    IO.puts(Native.load_error())

    try do
      Native.watcher_start(self(), config)
    rescue
      error in ErlangError -> IO.inspect(error.original)
    end
    """

    assert {output, 0} = vm(script, [{"OOM_NATIVE_PATH", "/nowhere/oom_nif.so"}])
    assert output =~ "/nowhere/oom_nif: "
    assert output =~ ":nif_not_loaded"
  end
end
