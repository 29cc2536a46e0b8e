defmodule Declare.Node do
  @moduledoc false
  # The VM under test in bench/declare.exs.

  @heap_bytes 1_000_000_000

  @doc "Returns the mean of a first call in each of `count` processes (they live on), and of as many more in one."
  def calls(how, count) do
    # Like workers: OTP processes, somewhere below an OOM.Supervisor.
    me = self()
    task = {Task, fn -> send(me, {:calls, do_calls(how, count)}) end}
    {:ok, supervisor} = OOM.Supervisor.start_link([task], strategy: :one_for_one)
    calls = receive(do: ({:calls, calls} -> calls))
    Supervisor.stop(supervisor)
    all_gone()
    calls
  end

  defp do_calls(how, count) do
    setup(how)
    # The ancestors are looked up once.
    me = self()

    :proc_lib.spawn(fn ->
      call(how)
      send(me, :called)
    end)

    receive(do: (:called -> :ok))
    :erlang.garbage_collect()

    pids =
      for _ <- 1..count do
        :proc_lib.spawn(fn ->
          send(me, {:ns, timed(how)})
          receive(do: (:stop -> :ok))
        end)
      end

    first = for(_ <- pids, do: receive(do: ({:ns, ns} -> ns))) |> Enum.sort()

    {_, ref} =
      spawn_monitor(fn ->
        call(how)
        began = now()
        again(how, count)
        send(me, {:ns, now() - began})
      end)

    again = receive(do: ({:ns, ns} -> ns))
    receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
    end_all(pids)
    teardown(how)

    # Calls taken off their scheduler in between say nothing about the call.
    kept = Enum.take(first, div(count * 99, 100))
    %{first_ns: Enum.sum(kept) / length(kept), again_ns: again / count}
  end

  @doc "Returns the bytes the VM holds for each of so many processes."
  def weigh(how, processes) do
    setup(how)
    parent = self()

    for _ <- 1..processes do
      spawn(fn ->
        call(how)
        send(parent, :called)
        # As small as a process gets, so the registration shows.
        :erlang.hibernate(__MODULE__, :stop, [])
      end)

      receive(do: (:called -> :ok))
    end

    if how == :set_priority, do: OOM.Accountant.pass()
    :erlang.garbage_collect()
    accountant = Process.whereis(OOM.Accountant)
    :erlang.garbage_collect(accountant)

    tables = for(t <- :ets.all(), is_integer(w = :ets.info(t, :memory)), do: w) |> Enum.sum()
    {:memory, accountant_bytes} = Process.info(accountant, :memory)

    %{
      total_bytes: :erlang.memory(:total) / processes,
      tables_bytes: 8 * tables / processes,
      accountant_bytes: accountant_bytes / processes
    }
  end

  @doc "Returns the time to start so many children, per child, in us."
  def children(module, options, how, count) do
    {listed, added} = count |> specs() |> split(how)
    parent = self()

    {pid, ref} =
      spawn_monitor(fn ->
        began = now()
        {:ok, supervisor} = module.start_link(listed, [strategy: :one_for_one] ++ options)
        for spec <- added, do: {:ok, _} = Supervisor.start_child(supervisor, spec)
        send(parent, {:us, (now() - began) / 1_000 / count})
        Supervisor.stop(supervisor)
      end)

    us = receive(do: ({:us, us} -> us))
    receive(do: ({:DOWN, ^ref, _, ^pid, _} -> :ok))
    all_gone()
    us
  end

  @doc false
  def stop, do: receive(do: (:stop -> :ok))

  defp specs(count),
    do: for(id <- 1..count, do: %{id: id, start: {Agent, :start_link, [:erlang, :self, []]}})

  defp split(specs, :all), do: {specs, []}
  defp split(specs, :one_by_one), do: {[], specs}

  defp setup(:ets) do
    :ets.new(Declare, [:named_table, :public, write_concurrency: true])
    :ok
  end

  defp setup(:registry) do
    {:ok, _} = Registry.start_link(keys: :duplicate, name: Declare.Registry)
    :ok
  end

  defp setup(_), do: :ok

  defp teardown(:ets), do: :ets.delete(Declare)
  defp teardown(:registry), do: Supervisor.stop(Declare.Registry)
  defp teardown(_), do: :ok

  # Waits until the accountant has seen all of them go.
  defp all_gone, do: OOM.Workers.count() == 0 || (Process.sleep(5) && all_gone())

  defp timed(how) do
    began = now()
    call(how)
    now() - began
  end

  defp again(_how, 0), do: :ok

  defp again(how, count) do
    call(how)
    again(how, count - 1)
  end

  defp call(:clock), do: :ok
  defp call(:none), do: :ok
  defp call(:set_priority), do: OOM.set_priority(:low)
  defp call(:capped), do: OOM.set_priority(:low, max_heap_size: @heap_bytes)

  defp call(:flag),
    do: Process.flag(:max_heap_size, %{size: div(@heap_bytes, 8), kill: true, error_logger: true})

  defp call(:ets), do: :ets.insert(Declare, {self(), 250})
  defp call(:registry), do: Registry.register(Declare.Registry, :low, 250)

  defp end_all(pids) do
    refs = for pid <- pids, do: Process.monitor(pid)
    for pid <- pids, do: send(pid, :stop)
    for ref <- refs, do: receive(do: ({:DOWN, ^ref, _, _, _} -> :ok))
  end

  defp now, do: System.monotonic_time(:nanosecond)
end
