defmodule OOM.Real.ChaosTest do
  @moduledoc false
  # Random trees under random pressure, while the library's processes are killed and its modules
  # replaced, and everything around the VM moves. After each storm all calms down, and everything
  # must be as it should.
  #
  #   OOM_CHAOS_SECONDS=1200 OOM_CHAOS_SEED=1 mix test test/real/chaos_test.exs
  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, Chaos, LimitedVM}
  alias OOM.Test.Chaos.Outside

  @moduletag :chaos
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: :infinity
  @moduletag :tmp_dir

  @mib 1_048_576
  @limit 512 * @mib
  @seconds String.to_integer(System.get_env("OOM_CHAOS_SECONDS", "25"))
  # Length of a storm before the calm.
  @storm_ms 12_000

  @parts [
    OOM.Guard,
    OOM.Accountant,
    OOM.Holds,
    OOM.Asker,
    OOM.Shed,
    OOM.Reporter,
    OOM.Notifier,
    OOM.Tree.Census
  ]
  # The end of a root is the end of all parts, and too many ends are the end of the application:
  # as with any supervisor.
  @roots [OOM.Tables, OOM.Tables.Heir, OOM.Keeper]

  # Mostly pressure; each of the remaining actions comes about once in a while.
  @actions List.duplicate(:stir, 8) ++
             List.duplicate(:crash, 4) ++
             [:drop, :drop, :limit, :files, :clock, :stop, :node, :reload, :reload]

  # To find the culprit among the actions: OOM_CHAOS_ACTIONS=stir,reload
  @only System.get_env("OOM_CHAOS_ACTIONS", "") |> String.split(",", trim: true)

  test "whatever happens, the VM lives and nothing is lost", %{tmp_dir: dir} do
    seed = String.to_integer(System.get_env("OOM_CHAOS_SEED", "#{System.os_time(:second)}"))
    :rand.seed(:exsss, seed)
    config = [backoff: [initial_ms: 50, max_ms: 1_000], max_kills: 10]
    vm = LimitedVM.start!(@limit, config, Outside.through(dir))
    LimitedVM.call(vm, Chaos, :setup, [])
    if path = System.get_env("OOM_CHAOS_TRACE"), do: LimitedVM.call(vm, Chaos, :trace, [path])
    node = distribute(vm)

    state = %{
      vm: vm,
      dir: dir,
      node: node,
      cgroup: vm.cgroup,
      limit: @limit,
      modules: LimitedVM.call(vm, Chaos, :modules, []),
      done: %{},
      # the last things done, the newest first
      last: []
    }

    deadline = now() + @seconds * 1_000
    {state, rounds} = rounds(state, deadline, [])
    report(state, rounds, seed)
    assert Cgroup.oom_kills(state.cgroup) == 0
    leaks(rounds)
  end

  defp rounds(state, deadline, rounds) do
    workers = LimitedVM.call(state.vm, Chaos, :start, [:rand.uniform(1_000_000_000)])
    state = storm(state, now() + @storm_ms)
    state = quiet(state)
    calm = LimitedVM.call(state.vm, Chaos, :calm, [])
    if calm.broken != [], do: flunk("#{inspect(calm)}; last: #{inspect(state.last)}")
    :ok = LimitedVM.call(state.vm, Chaos, :stop, [])

    round =
      LimitedVM.call(state.vm, Chaos, :holdings, [])
      |> Map.merge(%{
        files: length(Outside.files(state.vm)),
        threads: Outside.threads(state.vm),
        rss: Outside.rss_bytes(state.vm)
      })
      |> then(&Map.put(&1, :outside, &1.rss - &1.carriers))
      |> Map.merge(calm)
      |> Map.put(:workers, workers)

    if System.get_env("OOM_CHAOS_SECONDS"),
      do: IO.puts("round #{length(rounds) + 1}: #{inspect(round)}")

    if now() < deadline,
      do: rounds(state, deadline, [round | rounds]),
      else: {state, Enum.reverse([round | rounds])}
  end

  defp storm(state, until) do
    # Roots are killed once in a storm.
    state = act(state, Enum.random([:root, :hide, :regroup]))
    do_storm(state, until)
  end

  defp do_storm(state, until) do
    if now() < until do
      state = act(state, Enum.random(@actions))
      # The time between two actions is random too.
      Process.sleep(Enum.random(0..600))
      do_storm(state, until)
    else
      state
    end
  end

  defp act(state, action) do
    if @only == [] or to_string(action) in @only, do: do_act(state, action), else: state
  end

  defp do_act(state, action) do
    done = Map.update(state.done, action, 1, &(&1 + 1))
    perform(action, %{state | done: done, last: Enum.take([{action, now()} | state.last], 12)})
  end

  defp perform(:stir, state), do: call(state, :stir, [:rand.uniform(1_000_000_000)])
  defp perform(:drop, state), do: call(state, :drop, [:rand.uniform(1_000_000_000)])
  defp perform(:crash, state), do: call(state, :crash, [Enum.random(@parts)])
  defp perform(:root, state), do: call(state, :crash, [Enum.random(@roots)])
  defp perform(:reload, state), do: call(state, :reload, [Enum.random(state.modules)])

  defp perform(:limit, state) do
    limit = Outside.move_limit(state.cgroup, Enum.random(400..800) * @mib)
    %{state | limit: limit}
  end

  defp perform(:files, state) do
    Outside.no_more_files(state.vm)
    call(state, :stir, [:rand.uniform(1_000_000_000)])
    Process.sleep(500)
    Outside.more_files(state.vm)
    state
  end

  # Without libfaketime only the machine's clock could be moved.
  defp perform(:clock, state) do
    if Outside.faketime(), do: Outside.clock(state.dir, Enum.random(-100_000..100_000))
    state
  end

  defp perform(:stop, state) do
    Outside.signal(state.vm, "STOP")
    # Rarely for as long as a suspended laptop or a live migration takes.
    Process.sleep(Enum.random([100, 500, 500, 2_000, 10_000]))
    Outside.signal(state.vm, "CONT")
    call(state, :forget_worst, [])
  end

  # A node that comes, is known to the VM, and is gone.
  defp perform(:node, state) do
    {:ok, peer, _} =
      :peer.start(%{
        name: :peer.random_name(~c"chaos"),
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        args: [~c"-setcookie", ~c"chaos"]
      })

    true = :peer.call(peer, :net_kernel, :connect_node, [state.node])
    :peer.stop(peer)
    state
  end

  # Without files nobody knows what is growing: so files are hidden only while nothing grows.
  defp perform(:hide, state) do
    Outside.hide(state.vm, state.dir, Enum.random([:nothing, :garbage]))

    for _ <- 1..4 do
      call(state, :crash, [OOM.Guard])
      Process.sleep(300)
    end

    Outside.show(state.vm)
    await_limit(state)
  end

  # The VM moves to another cgroup, and its old cgroup goes.
  defp perform(:regroup, state) do
    cgroup = Cgroup.create!(@limit)

    on_exit(fn ->
      LimitedVM.stop(state.vm)
      Cgroup.destroy(cgroup)
    end)

    Cgroup.move_all!(state.cgroup, cgroup)
    killed = Cgroup.oom_kills(state.cgroup)
    assert killed == 0
    Cgroup.destroy(state.cgroup)
    await_limit(%{state | cgroup: cgroup, vm: %{state.vm | cgroup: cgroup}, limit: @limit})
  end

  defp await_limit(state) do
    assert :ok == LimitedVM.call(state.vm, Chaos, :await_limit, [state.limit])
    state
  end

  # Nothing is in the way of calming down.
  defp quiet(state) do
    if Outside.faketime(), do: Outside.clock(state.dir, 0)
    :ok = Cgroup.limit!(state.cgroup, max(@limit, state.limit))
    %{state | limit: max(@limit, state.limit)}
  end

  defp call(state, function, arguments) do
    LimitedVM.call(state.vm, Chaos, function, arguments)
    note(state, arguments)
  catch
    :exit, reason ->
      last = for {what, at} <- state.last, do: {what, at - now()}

      flunk(
        "the VM is gone; the kernel has killed #{Cgroup.oom_kills(state.cgroup)}; #{inspect(reason)} in #{function} #{inspect(arguments)}; last, ms ago: #{inspect(last)}"
      )
  end

  defp note(%{last: [{action, at} | last]} = state, arguments),
    do: %{state | last: [{{action, arguments}, at} | last]}

  defp distribute(vm) do
    {_, 0} = System.cmd("epmd", ["-daemon"])
    name = :"oom_chaos_#{System.pid()}@127.0.0.1"
    {:ok, _} = LimitedVM.call(vm, :net_kernel, :start, [name, %{name_domain: :longnames}])
    true = LimitedVM.call(vm, :erlang, :set_cookie, [:chaos])
    name
  end

  defp report(state, rounds, seed) do
    starts = LimitedVM.call(state.vm, Chaos, :starts, [])
    worst = rounds |> Enum.map(& &1.worst_us) |> Enum.max()
    released = rounds |> Enum.map(& &1.released) |> Enum.sum()
    workers = rounds |> Enum.map(& &1.workers) |> Enum.sum()

    IO.puts("""

    chaos: seed #{seed}, #{length(rounds)} trees with #{workers} workers that must last, #{starts} starts of workers, \
    #{released} released by hand, worst answer of the protected process #{div(worst, 1_000)} ms; \
    #{inspect(state.done)}
    """)
  end

  # Growth from round to round. The first rounds fill caches, and the middle of a few is chance.
  defp leaks(rounds) when length(rounds) < 12, do: :ok

  defp leaks(rounds) do
    {early, late} = rounds |> Enum.drop(1) |> Enum.split(div(length(rounds), 2))

    for key <- [:processes, :tables, :ports, :rows, :files, :threads, :bytes, :outside] do
      [before, later] = for part <- [early, late], do: part |> Enum.map(& &1[key]) |> middle()
      # The middle of each half: growth lifts the middle, fluctuation does not.
      assert later <= before * share(key) + 2,
             "#{key} grows: #{inspect(Enum.map(rounds, & &1[key]), limit: :infinity)}"
    end
  end

  # Resident memory outside of the VM's allocators: leaks of the native part, and the VM's own
  # code. A carrier is not resident as a whole.
  defp share(:outside), do: 1.25
  defp share(_other), do: 1.1

  defp middle(figures), do: figures |> Enum.sort() |> Enum.at(div(length(figures), 2))

  defp now, do: System.monotonic_time(:millisecond)
end
