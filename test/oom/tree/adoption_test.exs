defmodule OOM.Tree.AdoptionTest do
  # The application's own parts run.
  use ExUnit.Case, async: false

  import OOM.Test.{Eventually, HeldTree}

  alias OOM.{Kill, Priority, Tables, Tree, Victims, Workers}
  alias OOM.Tree.{Adoption, Census}

  defmodule Idle do
    @moduledoc false
    use GenServer
    def start_link(_), do: GenServer.start_link(__MODULE__, nil)
    @impl true
    def init(nil), do: {:ok, nil}
  end

  setup do
    on_exit(fn ->
      for {target, _} <- Tables.adopted(), do: :ets.delete(OOM.State, {:adopted, target})
    end)
  end

  defp start_others(children, options \\ []) do
    start = {Supervisor, :start_link, [children, [strategy: :one_for_one] ++ options]}
    start_supervised!(%{id: make_ref(), type: :supervisor, start: start})
  end

  defp end_one(pid) do
    row = Workers.lookup(pid)
    Victims.mark(pid, System.monotonic_time(:millisecond), 1)
    ref = Process.monitor(pid)
    Workers.delete(pid)
    :ok = Kill.run(pid, elem(row, 5), 1_000)
    assert_receive {:DOWN, ^ref, _, _, reason}
    reason
  end

  defp rank(pid), do: Workers.rank(pid)
  defp ranked(pid, rank), do: eventually(fn -> rank(pid) == rank end)
  defp low, do: Priority.rank!(:low)

  test "workers below are found, ranked, held where killed, and brought back" do
    supervisor = start_others([worker(:a), worker(:b)])
    [a, b] = [started(:a), started(:b)]
    Census.walk()
    refute Workers.member?(a)
    assert OOM.adopt(supervisor, priority: :low, backoff: [initial_ms: 10, max_ms: 50]) == :ok
    for pid <- [a, b], do: ranked(pid, low())
    assert end_one(a) == {:shutdown, :memory_pressure}
    assert started(:a) != a
    assert Process.alive?(b) and Process.alive?(supervisor)
  end

  test "adopted again with other options, the workers get their new rank" do
    supervisor = start_others([worker(:a)])
    a = started(:a)
    :ok = OOM.adopt(supervisor, priority: :low)
    ranked(a, low())
    :ok = OOM.adopt(supervisor, priority: 300)
    ranked(a, 300)
  end

  test "a name is waited for, and adopted again in its next process" do
    assert OOM.adopt(__MODULE__.Later, priority: :low) == :ok
    supervisor = start_others([worker(:a)], name: __MODULE__.Later)
    a = started(:a)
    ranked(a, low())
    Process.exit(supervisor, :kill)
    again = started(:a)
    assert again != a
    ranked(again, low())
  end

  test "the top supervisor of an application is adopted by the application's name" do
    :ok = OOM.adopt({:application, :ex_unit}, priority: :protected)
    assert Tree.kind(Process.whereis(ExUnit.Supervisor)) == :supervisor
    assert OOM.adopt({:application, :no_such_application}, priority: :low) == :ok
  end

  test "rules by id, name and module tell who is worth what, with all below" do
    inner = {Supervisor, :start_link, [[worker(:d)], [strategy: :one_for_one]]}
    agent = {Agent, :start_link, [fn -> nil end, [name: __MODULE__.Named]]}

    supervisor =
      start_others([
        worker(:a),
        %{id: :inner, type: :supervisor, start: inner},
        %{id: :named, start: agent},
        %{id: :other, start: {Idle, :start_link, [nil]}}
      ])

    [a, d] = [started(:a), started(:d)]
    {_, other, _, _} = List.keyfind(Supervisor.which_children(supervisor), :other, 0)
    rules = [{:inner, 100}, {__MODULE__.Named, :high}, {Idle, 200}]
    :ok = OOM.adopt(supervisor, priority: :low, priorities: rules)
    ranked(a, low())
    ranked(d, 100)
    ranked(Process.whereis(__MODULE__.Named), Priority.rank!(:high))
    ranked(other, 200)
  end

  test "exit_reason: :kill ends a victim without an order" do
    supervisor = start_others([worker(:a, trap_exit: true)])
    a = started(:a)
    :ok = OOM.adopt(supervisor, priority: :low, exit_reason: :kill)
    ranked(a, low())
    assert Tree.exit_reason(supervisor) == :kill
    assert end_one(a) in [:killed, {:shutdown, :memory_pressure}]
  end

  test "what is no supervisor of others is refused" do
    {top, _} = start(:long, [:a])
    message = ~r/expected a supervisor of others, .*got: #PID/
    assert_raise ArgumentError, message, fn -> OOM.adopt(top, priority: :low) end
    message = ~r/expected a supervisor of OTP or Elixir, .*got: #PID/
    assert_raise ArgumentError, message, fn -> OOM.adopt(self(), priority: :low) end
    assert_raise ArgumentError, ~r/got: 7/, fn -> OOM.adopt(7, priority: :low) end

    for {options, message} <- [
          {[priority: :lowest], ~r/expected priority to be/},
          {[priorities: [:a]], ~r/expected :priorities to be/},
          {[priorities: [a: -1]], ~r/expected priority to be/},
          {[exit_reason: :normal], ~r/expected :exit_reason to be/},
          {[unit: true], ~r/expected one of the options .*got: {:unit, true}/},
          {:low, ~r/expected options to be a keyword list, got: :low/}
        ] do
      assert_raise ArgumentError, message, fn -> OOM.adopt(:nobody, options) end
      assert_raise ArgumentError, message, fn -> Adoption.check!(nobody: options) end
    end

    message = ~r/expected :adopt to be a list/
    assert_raise ArgumentError, message, fn -> OOM.Config.new!(adopt: :rabbit_sup) end
  end
end
