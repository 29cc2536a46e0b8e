defmodule OOM.AskerTest do
  # test/real/last_word_test.exs shows under a real limit which workers the asker asks.
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.{Asker, Level}

  test "a worker listens by its own word, and takes the word back" do
    pid = start_supervised!({Agent, fn -> OOM.set_priority(:low, handle_pressure: true) end})
    assert listens?(pid)
    :ok = Agent.get(pid, fn _ -> OOM.set_priority(:low) end)
    assert listens?(pid)
    :ok = Agent.get(pid, fn _ -> OOM.set_priority(:low, handle_pressure: false) end)
    refute listens?(pid)
  end

  test "by its specification, and by its supervisor's default" do
    children = [
      OOM.child_spec({Agent, fn -> 0 end}, id: :a, handle_pressure: true),
      Supervisor.child_spec({Agent, fn -> 0 end}, id: :b)
    ]

    for {default, expected} <- [{false, [:a]}, {true, [:a, :b]}] do
      options = [strategy: :one_for_one, oom: [handle_pressure: default]]
      {:ok, sup} = OOM.Supervisor.start_link(children, options)
      ids = for {id, pid, _, _} <- Supervisor.which_children(sup), listens?(pid), do: id
      assert Enum.sort(ids) == expected
      Supervisor.stop(sup)
    end
  end

  test "an ended worker is forgotten" do
    pid = start_supervised!({Agent, fn -> OOM.set_priority(:low, handle_pressure: true) end})
    :ok = stop_supervised(Agent)
    eventually(fn -> not listens?(pid) end)
  end

  test "asks nobody while nothing is missing, whatever the level says" do
    on_exit(fn -> Level.put(:normal) end)
    OOM.set_priority(:low, handle_pressure: true)
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    Level.put(:high)
    Asker.level(:high)
    :sys.get_state(Asker)
    Level.put(:normal)
    refute_received {:oom_pressure, _}
  end

  test "a wrong option changes nothing" do
    message = "expected :handle_pressure to be one of true, false, got: :yes"
    assert_raise ArgumentError, message, fn -> OOM.set_priority(:low, handle_pressure: :yes) end
    refute listens?(self())
    assert OOM.Workers.lookup(self()) == nil
  end

  defp listens?(pid), do: :ets.member(Asker, pid)
end
