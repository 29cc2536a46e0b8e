defmodule OOM.WorkerNameTest do
  use ExUnit.Case, async: true

  alias OOM.WorkerName

  test "tells the registered name and the initial call" do
    pid = start_supervised!({Task.Supervisor, name: :worker_name_test})
    name = WorkerName.read(pid, 65_536, 1_000, nil)
    assert %{name: :worker_name_test, call: {:supervisor, Task.Supervisor, 1}} = name
    assert WorkerName.words(pid, name) =~ ":worker_name_test"
    assert WorkerName.words(pid, name) =~ "Task.Supervisor"
  end

  test "a small worker has none, and is told by its pid" do
    assert WorkerName.read(self(), 65_535, 1_000, nil) == nil
    assert WorkerName.words(self(), nil) == inspect(self())
  end

  test "is read once" do
    known = %{name: :known, call: nil, label: nil}
    assert WorkerName.read(self(), 10, 10, known) == known
    assert WorkerName.words(self(), known) == ":known"
  end

  test "a process that has ended is told by its pid" do
    {pid, ref} = spawn_monitor(fn -> nil end)
    assert_receive {:DOWN, ^ref, _, _, _}
    name = WorkerName.read(pid, 65_536, 1_000, nil)
    assert WorkerName.words(pid, name) == inspect(pid)
  end

  # From OTP 27 on.
  if Code.ensure_loaded?(:proc_lib) and function_exported?(:proc_lib, :set_label, 1) do
    test "tells the label" do
      :proc_lib.set_label({:upload, 7})
      assert WorkerName.words(self(), WorkerName.read(self(), 65_536, 0, nil)) =~ "{:upload, 7}"
    end
  end
end
