defmodule OOM.HeapTest do
  use ExUnit.Case, async: true

  import OOM.Test.Eventually

  alias OOM.Heap

  @bytes 80_000_000
  @words 10_000_000

  defmodule Continues do
    @moduledoc false
    use GenServer

    def start_link(owner), do: GenServer.start_link(__MODULE__, owner)

    @impl true
    def init(owner), do: {:ok, owner, {:continue, :wait}}

    @impl true
    def handle_continue(:wait, owner) do
      send(owner, {:continuing, self()})
      receive(do: (:go -> {:noreply, owner}))
    end

    @impl true
    def handle_info(message, owner) do
      send(owner, {:stray, message})
      {:noreply, owner}
    end
  end

  defmodule Hibernates do
    @moduledoc false
    use GenServer

    def start_link(owner), do: GenServer.start_link(__MODULE__, owner)

    @impl true
    def init(owner), do: {:ok, owner, :hibernate}

    @impl true
    def handle_info(message, owner) do
      send(owner, {:stray, message})
      {:noreply, owner}
    end
  end

  defmodule Machine do
    @moduledoc false
    @behaviour :gen_statem

    def start_link(data), do: :gen_statem.start_link(__MODULE__, data, [])

    @impl true
    def callback_mode, do: :handle_event_function

    @impl true
    def init(data), do: {:ok, :ready, data}

    @impl true
    def handle_event(:info, message, :ready, owner) do
      send(owner, {:stray, message})
      :keep_state_and_data
    end
  end

  defmodule Handler do
    @moduledoc false
    @behaviour :gen_event

    @impl true
    def init(owner), do: {:ok, owner}

    @impl true
    def handle_call(:ping, owner), do: {:ok, :pong, owner}

    @impl true
    def handle_event(_event, owner), do: {:ok, owner}

    @impl true
    def handle_info(message, owner) do
      send(owner, {:stray, message})
      {:ok, owner}
    end
  end

  describe "bytes/2" do
    test "are bytes whatever the limit" do
      assert Heap.bytes(5, nil) == 5
      assert Heap.bytes(5, 1) == 5
    end

    test "are a share of the limit, where a limit is known" do
      assert Heap.bytes({:percent_of_limit, 35}, 1_000) == 350
      assert Heap.bytes({:percent_of_limit, 0.5}, 1_000) == 5
      assert Heap.bytes({:percent_of_limit, 100}, 1_000) == 1_000
      assert Heap.bytes({:percent_of_limit, 35}, nil) == nil
    end

    test "are none for :infinity" do
      assert Heap.bytes(:infinity, nil) == nil
      assert Heap.bytes(:infinity, 1_000) == nil
    end
  end

  describe "cap/2 reaches" do
    test "a GenServer" do
      {:ok, pid} = GenServer.start_link(Hibernates, self())
      assert_capped(pid)
    end

    test "an Agent" do
      {:ok, pid} = Agent.start_link(fn -> :state end)
      assert_capped(pid)
      assert Agent.get(pid, & &1) == :state
    end

    test "a :gen_statem" do
      {:ok, pid} = Machine.start_link(self())
      assert_capped(pid)
      assert :sys.get_state(pid) == {:ready, self()}
    end

    test "a :gen_event, with its next event" do
      {:ok, pid} = :gen_event.start_link()
      assert Heap.cap(pid, @bytes)
      :ok = :gen_event.add_handler(pid, Handler, self())
      assert_cap(pid)
      :pong = :gen_event.call(pid, Handler, :ping)
      refute_received _
    end

    test "a process that hibernates, and hibernates again" do
      {:ok, pid} = Hibernates.start_link(self())
      hibernates = fn -> hibernates?(Process.info(pid, :current_function)) end
      eventually(hibernates)
      assert_capped(pid)
      eventually(hibernates)
    end

    test "a process in handle_continue, as soon as the callback is through" do
      {:ok, pid} = Continues.start_link(self())
      assert_receive {:continuing, ^pid}, 5_000
      assert Heap.cap(pid, @bytes)
      send(pid, :go)
      assert_cap(pid)
      refute_received _
    end
  end

  describe "cap/2 leaves alone" do
    test "a process that does not speak sys" do
      test = self()
      pid = spawn_link(fn -> receive(do: (message -> send(test, {:got, message}))) end)
      refute Heap.cap(pid, @bytes)
      send(pid, :mine)
      assert_receive {:got, :mine}, 5_000
      assert cap_of(self()) == 0
    end

    test "a Task" do
      test = self()
      task = Task.async(fn -> receive(do: (message -> send(test, {:got, message}))) end)
      refute Heap.cap(task.pid, @bytes)
      send(task.pid, :mine)
      assert_receive {:got, :mine}, 5_000
      Task.await(task)
    end

    test "a dead process" do
      {pid, ref} = spawn_monitor(fn -> :ok end)
      assert_receive {:DOWN, ^ref, _, _, _}, 5_000
      refute Heap.cap(pid, @bytes)
    end

    test "everyone, without a size" do
      {:ok, pid} = Agent.start_link(fn -> :state end)
      assert Heap.cap(pid, nil)
    end
  end

  test "the state of a capped process is neither changed nor copied" do
    state = Enum.to_list(1..100_000)
    {:ok, pid} = Agent.start_link(fn -> state end)
    :erlang.trace(pid, true, [:send])
    assert Heap.cap(pid, @bytes)
    assert_cap(pid)
    assert Agent.get(pid, &(&1 == state))

    sent = sent(pid)
    assert [_ | _] = sent
    for message <- sent, do: assert(:erts_debug.flat_size(message) < 1_000)
  end

  test "a capped process dies when it would pass the cap" do
    {:ok, pid} = Agent.start(fn -> [] end)
    ref = Process.monitor(pid)
    assert Heap.cap(pid, 1_000_000)
    catch_exit(Agent.update(pid, fn _ -> Enum.to_list(1..1_000_000) end))
    assert_receive {:DOWN, ^ref, _, _, :killed}, 5_000
  end

  describe "cap_self/1" do
    test "sets the flag, and nil takes it away" do
      Task.await(
        Task.async(fn ->
          :ok = Heap.cap_self(@bytes)
          assert cap_of(self()) == @words
          :ok = Heap.cap_self(nil)
          assert cap_of(self()) == 0
        end)
      )
    end
  end

  describe "under an OOM.Supervisor" do
    test "workers are capped by the child's size, the supervisor's, or the default" do
      children = [
        OOM.child_spec({Agent, fn -> 1 end}, id: :own, max_heap_size: 8_000_000),
        Supervisor.child_spec({Agent, fn -> 2 end}, id: :default),
        OOM.child_spec({Agent, fn -> 3 end}, id: :none, max_heap_size: :infinity)
      ]

      pids = start(children, oom: [max_heap_size: @bytes])
      assert_cap(pids.own, 1_000_000)
      assert_cap(pids.default, @words)
      assert cap_of(pids.none) == 0

      limit = OOM.snapshot().limit_bytes
      %{default: pid} = start([Supervisor.child_spec({Agent, fn -> 2 end}, id: :default)], [])
      assert_cap(pid, div(limit, 8))
    end

    test "supervisors are not" do
      child = %{
        id: :sup,
        type: :supervisor,
        start: {Supervisor, :start_link, [[], [strategy: :one_for_one]]}
      }

      %{sup: pid} = start([child], oom: [max_heap_size: @bytes])
      assert cap_of(pid) == 0
    end

    test "Tasks cap themselves before they run" do
      test = self()
      tell = fn -> send(test, {:cap, cap_of(self())}) end

      start([Supervisor.child_spec({Task, tell}, id: :fun)], oom: [max_heap_size: @bytes])
      assert_receive {:cap, @words}, 5_000

      # A permanent task would be restarted until its supervisor gives up.
      start = {Task, :start_link, [Kernel, :apply, [tell, []]]}
      mfa = %{id: :mfa, start: start, restart: :temporary}
      start([mfa], oom: [max_heap_size: @bytes])
      assert_receive {:cap, @words}, 5_000
    end

    test "a plain process gets no unknown message" do
      test = self()
      start = fn -> {:ok, spawn_link(fn -> receive(do: (m -> send(test, {:got, m}))) end)} end
      child = %{id: :plain, start: {Kernel, :apply, [start, []]}}
      agent = Supervisor.child_spec({Agent, fn -> 1 end}, id: :agent)

      pids = start([child, agent], oom: [max_heap_size: @bytes])
      # The child started after `plain` has been reached.
      assert_cap(pids.agent)
      send(pids.plain, :mine)
      assert_receive {:got, :mine}, 5_000
    end

    test "the supervisor hears nothing of the cap" do
      children = for n <- 1..10, do: Supervisor.child_spec({Agent, fn -> n end}, id: n)

      {:ok, sup} =
        OOM.Supervisor.start_link(children,
          strategy: :one_for_one,
          oom: [max_heap_size: @bytes]
        )

      for {_, pid, _, _} <- Supervisor.which_children(sup), do: assert_cap(pid)
      assert Process.info(sup, :message_queue_len) == {:message_queue_len, 0}
    end
  end

  defp start(children, options) do
    options = [strategy: :one_for_one] ++ options

    sup =
      start_supervised!(%{
        id: make_ref(),
        start: {OOM.Supervisor, :start_link, [children, options]}
      })

    for {id, pid, _, _} <- Supervisor.which_children(sup), into: %{}, do: {id, pid}
  end

  defp assert_capped(pid) do
    assert Heap.cap(pid, @bytes)
    assert_cap(pid)
    # An answer of `sys` would have been sent before.
    :sys.get_state(pid)
    refute_received _
  end

  defp assert_cap(pid, words \\ @words), do: eventually(fn -> cap_of(pid) == words end)

  defp cap_of(pid) do
    {:garbage_collection, info} = Process.info(pid, :garbage_collection)
    info[:max_heap_size].size
  end

  defp hibernates?({_, {:erlang, :hibernate, 3}}), do: true
  # since OTP 28
  defp hibernates?({_, {:gen_server, :loop_hibernate, _}}), do: true
  defp hibernates?(_), do: false

  # Returns the messages sent by the process so far.
  defp sent(pid) do
    :erlang.trace(pid, false, [:send])
    ref = :erlang.trace_delivered(pid)
    assert_receive {:trace_delivered, ^pid, ^ref}, 5_000
    take_sent(pid)
  end

  defp take_sent(pid) do
    receive do
      {:trace, ^pid, kind, message, _to} when kind in [:send, :send_to_non_existing_process] ->
        [message | take_sent(pid)]
    after
      0 -> []
    end
  end
end
