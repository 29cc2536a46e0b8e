defmodule OOM.BeginnersTest do
  @moduledoc false
  # Children with a long start are known before the start is through.
  use OOM.Test.TablesCase, async: false

  import OOM.Test.Eventually

  alias OOM.{Beginners, Priority, Workers}

  defmodule Slow do
    @moduledoc false
    use GenServer

    def start_link(test), do: GenServer.start_link(__MODULE__, test, timeout: :infinity)

    @impl true
    def init(test) do
      send(test, {:begins, self()})
      receive(do: (:go_on -> {:ok, test}))
    end
  end

  defp begin(options, strategy \\ :one_for_one) do
    test = self()
    slow = OOM.child_spec(%{id: :slow, start: {Slow, :start_link, [test]}}, options)
    first = %{id: :first, start: {Agent, :start_link, [fn -> nil end]}}

    starter =
      spawn(fn ->
        {:ok, supervisor} = OOM.Supervisor.start_link([first, slow], strategy: strategy)
        send(test, {:started, supervisor})
        Process.sleep(:infinity)
      end)

    on_exit(fn -> Process.exit(starter, :kill) end)
    assert_receive {:begins, pid}, 5_000
    refute Workers.member?(pid)

    eventually(fn ->
      Beginners.read()
      Workers.member?(pid)
    end)

    pid
  end

  test "a child is registered in its init, below its supervisor and with its final rank" do
    pid = begin(priority: :low)
    assert Workers.rank(pid) == Priority.rank!(:low)
    assert {_, _, _, _, :new, supervisor, _, _, _} = Workers.lookup(pid)
    send(pid, :go_on)
    assert_receive {:started, ^supervisor}, 5_000
    assert {_, _, _, _, _, ^supervisor, :slow, _, _} = Workers.lookup(pid)
    assert Workers.rank(pid) == Priority.rank!(:low)
  end

  test "a protected child is protected in its init" do
    assert Workers.rank(begin(priority: :protected)) == :protected
  end

  test "a child that may take others along goes last until a look" do
    assert Workers.rank(begin([priority: :low], :one_for_all)) == 1000
  end

  test "nobody else is registered: neither started children, nor linked processes" do
    pid = begin(priority: :low)
    {_, _, _, _, _, supervisor, _, _, _} = Workers.lookup(pid)
    before = Workers.count()
    Beginners.read()
    assert Workers.count() == before
    refute Workers.member?(supervisor)
  end

  test "where nothing is being started nobody is asked" do
    assert Beginners.read() == :ok
  end
end
