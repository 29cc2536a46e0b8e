defmodule OOM.Visit.CopyTest do
  # The application's own parts run.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Kill, Victims, Workers}
  alias OOM.Tree.Census

  defmodule Copied do
    @moduledoc false
    # The state and the messages of DynamicSupervisor, with ids of children, as Horde has.
    use GenServer

    defstruct children: %{}, restarts: [], max_restarts: 1, max_seconds: 60

    def start_link(test), do: GenServer.start_link(__MODULE__, test)

    @impl true
    def init(test) do
      Process.put(:test, test)
      Process.put(:"$initial_call", {:supervisor, __MODULE__, 1})
      Process.flag(:trap_exit, true)
      {:ok, %__MODULE__{}}
    end

    @impl true
    def handle_call({:start_child, {_id, start, _restart} = child}, _from, state) do
      {:ok, pid} = start(start)
      {:reply, {:ok, pid}, put_in(state.children[pid], child)}
    end

    def handle_call(:children, _from, state), do: {:reply, state.children, state}

    @impl true
    def handle_info({:EXIT, pid, _reason}, state), do: again(pid, state.children[pid], state)

    def handle_info({:"$gen_restart", pid}, state) do
      case state.children do
        %{^pid => {:restarting, child}} -> again(pid, child, state)
        _gone -> {:noreply, state}
      end
    end

    defp again(pid, {_, start, _} = child, state) do
      state = %{state | restarts: [:once | state.restarts]}
      children = Map.delete(state.children, pid)

      cond do
        length(state.restarts) > state.max_restarts ->
          {:stop, :shutdown, state}

        match?({:ok, _}, started = start(start)) ->
          send(Process.get(:test), :restarted)
          {:noreply, %{state | children: Map.put(children, elem(started, 1), child)}}

        true ->
          send(self(), {:"$gen_restart", pid})
          {:noreply, %{state | children: Map.put(children, pid, {:restarting, child})}}
      end
    end

    defp start({module, function, arguments}), do: apply(module, function, arguments)
  end

  @options [priority: :low, backoff: [initial_ms: 10, max_ms: 50]]

  setup do
    copied = start_supervised!(%{id: :copied, start: {Copied, :start_link, [self()]}})
    :ok = OOM.adopt(copied, @options)
    on_exit(fn -> :ets.delete(OOM.State, {:adopted, copied}) end)
    %{copied: copied}
  end

  defp start_child(copied, id, options \\ []) do
    %{start: start} = worker(id, options)
    {:ok, pid} = GenServer.call(copied, {:start_child, {id, start, :permanent}})
    assert started(id) == pid
    Census.walk()
    eventually(fn -> Workers.member?(pid) end)
    pid
  end

  defp end_one(pid) do
    row = Workers.lookup(pid)
    Victims.mark(pid, System.monotonic_time(:millisecond), 1)
    Workers.delete(pid)
    :ok = Kill.run(pid, elem(row, 5), 1_000)
  end

  defp children(copied), do: GenServer.call(copied, :children)

  test "a child that is killed comes back, again and again, and no restart is counted", %{
    copied: copied
  } do
    other = start_child(copied, :other)

    last =
      Enum.reduce(1..4, start_child(copied, :leaker), fn _, pid ->
        end_one(pid)
        new = started(:leaker)
        # As where the supervisor restarts a child itself.
        assert_receive :restarted

        eventually(fn ->
          children(copied) |> Map.keys() |> Enum.sort() == Enum.sort([other, new])
        end)

        Census.walk()
        eventually(fn -> Workers.member?(new) end)
        new
      end)

    assert Process.alive?(other) and Process.alive?(last)
    assert :sys.get_state(copied).restarts == []
  end

  test "a start that fails is tried again after the backoff, and ends no supervisor", %{
    copied: copied
  } do
    starts = :counters.new(1, [])

    start = fn ->
      :counters.add(starts, 1, 1)
      if :counters.get(starts, 1) in 2..4, do: {:error, :not_yet}, else: :ok
    end

    pid = start_child(copied, :late, start: start)
    end_one(pid)
    assert started(:late) != pid
    assert :counters.get(starts, 1) == 5
    assert Process.alive?(copied)
  end

  test "a crash stays a crash", %{copied: copied} do
    pid = start_child(copied, :a)
    Process.exit(pid, :kill)
    assert started(:a) != pid
    assert :sys.get_state(copied).restarts == [:once]
  end
end
