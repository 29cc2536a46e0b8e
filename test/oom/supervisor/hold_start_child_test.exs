defmodule OOM.Supervisor.HoldStartChildTest do
  # Held children of supervisors that forget terminated children. Each child is started anew under a new pid,
  # and keeps its past.
  use ExUnit.Case, async: true

  import OOM.Test.Eventually
  import OOM.Test.HeldTree

  alias OOM.{Holds, Victims}

  @backoff [initial_ms: 10, max_ms: 50]

  setup do
    sup = start_supervised!({DynamicSupervisor, max_restarts: 0})
    %{sup: sup}
  end

  test "comes back by start_child, and is known by its new pid", %{sup: sup} do
    a = start_child(sup)
    hold_child(sup, a)
    new = started(:a)
    eventually(fn -> kills(sup, new) == 1 end)
    assert kills(sup, a) == 0
    assert [{_, ^new, _, _}] = DynamicSupervisor.which_children(sup)
  end

  test "counts on at the next kill", %{sup: sup} do
    last =
      Enum.reduce(1..3, start_child(sup), fn n, pid ->
        hold_child(sup, pid)
        new = started(:a)
        eventually(fn -> kills(sup, new) == n end)
        new
      end)

    assert kills(sup, last) == 3
    assert %{active: 1} = DynamicSupervisor.count_children(sup)
  end

  test "is tried again after a failed start", %{sup: sup} do
    starts = :counters.new(1, [])

    start = fn ->
      :counters.add(starts, 1, 1)
      if :counters.get(starts, 1) == 2, do: {:error, :not_yet}, else: :ok
    end

    a = start_child(sup, start: start)
    hold_child(sup, a, start: start)
    new = started(:a)
    eventually(fn -> kills(sup, new) == 2 end)
  end

  test "of a simple_one_for_one supervisor is started with its arguments" do
    start = {:supervisor, :start_link, [__MODULE__.Simple, self()]}
    sup = start_supervised!(%{id: :simple, start: start, type: :supervisor})
    {:ok, a} = :supervisor.start_child(sup, [:b])
    assert a == started(:b)
    :ok = :supervisor.terminate_child(sup, a)
    :ok = Holds.Down.hold(sup, a, [{a, true}], a, backoff: @backoff, return: {:start_child, [:b]})
    new = started(:b)
    eventually(fn -> kills(sup, new) == 1 end)
  end

  defmodule Simple do
    def init(owner) do
      child = %{id: :any, start: {__MODULE__, :start_child, [owner]}}
      {:ok, {%{strategy: :simple_one_for_one}, [child]}}
    end

    def start_child(owner, id), do: OOM.Test.Worker.start_link(id: id, owner: owner)
  end

  defp start_child(sup, options \\ []) do
    {:ok, pid} = DynamicSupervisor.start_child(sup, worker(:a, options))
    assert pid == started(:a)
    pid
  end

  # Holds the child as OOM does for such a supervisor.
  defp hold_child(sup, pid, options \\ []) do
    Victims.mark(pid, System.monotonic_time(:millisecond), 7)
    :ok = DynamicSupervisor.terminate_child(sup, pid)
    %{start: start} = worker(:a, options)
    request = {start, :permanent, 5_000, :worker, [OOM.Test.Worker]}

    :ok =
      Holds.Down.hold(sup, pid, [{pid, true}], pid,
        backoff: @backoff,
        return: {:start_child, request}
      )
  end
end
