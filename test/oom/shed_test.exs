defmodule OOM.ShedTest do
  # The choice of children is pure. test/real/shed_test.exs shows the shedding under a real limit.
  use ExUnit.Case, async: true

  alias OOM.{Config, Shed, Tree}

  @order [newest: [5, 4, 3], largest: [2, 5, 1]]

  test "takes the newest, or the largest, and at least one" do
    pids = for _ <- 1..5, do: spawn(fn -> :ok end)
    workers = Enum.zip(pids, [30, 50, 10, 20, 40])

    for {order, numbers} <- @order, {fraction, count} <- [{0.5, 3}, {0.4, 2}, {0.01, 1}] do
      expected = for n <- Enum.take(numbers, count), do: Enum.at(workers, n - 1)
      assert Shed.choose(Enum.shuffle(workers), {:fraction, fraction, order}) == expected
    end

    assert length(Shed.choose(workers, {:fraction, 1.0, :newest})) == 5
    assert Shed.choose([], {:fraction, 1.0, :newest}) == []
  end

  test "children stay where their leaving would free nothing" do
    [a, b, c, d] = for _ <- 1..4, do: spawn(fn -> :ok end)
    # `a` was large while starting; of `c` and `d` nothing is known yet.
    workers = [{a, 20_000}, {b, 2_700}, {c, 0}, {d, 0}]
    refute workers |> Shed.choose({:fraction, 0.5, :newest}) |> Shed.worth?(16_384)
    refute workers |> Shed.choose({:fraction, 1.0, :newest}) |> Shed.worth?(16_384)
    refute Shed.worth?([], 16_384)

    # A single newcomer does not keep the larger children.
    workers = [{a, 50_000}, {b, 50_000}, {c, 50_000}, {d, 0}]
    assert workers |> Shed.choose({:fraction, 0.5, :newest}) |> Shed.worth?(16_384)
  end

  test "the option is checked, and its order filled in" do
    assert Config.shed!({:fraction, 1}) == {:fraction, 1.0, :newest}
    assert Config.shed!({:fraction, 0.5, :largest}) == {:fraction, 0.5, :largest}
    assert Config.shed!(nil) == nil

    for wrong <- [0.5, {:fraction, 0}, {:fraction, 1.5}, {:fraction, 0.5, :oldest}, :half] do
      message =
        "expected :shed to be {:fraction, f} or {:fraction, f, :newest | :largest} with " <>
          "0 < f <= 1, or nil, got: #{inspect(wrong)}"

      assert_raise ArgumentError, message, fn ->
        OOM.Supervisor.start_link([], strategy: :one_for_one, oom: [shed: wrong])
      end
    end
  end

  test "the option holds for the supervisors below, unless they have another" do
    children = [
      {DynamicSupervisor, name: __MODULE__.A},
      OOM.child_spec({DynamicSupervisor, name: __MODULE__.B}, id: :b, shed: {:fraction, 0.1}),
      OOM.child_spec({DynamicSupervisor, name: __MODULE__.C}, id: :c, shed: nil)
    ]

    options = [strategy: :one_for_one, oom: [shed: {:fraction, 0.5, :largest}]]
    {:ok, top} = OOM.Supervisor.start_link(children, options)
    assert Tree.options(top)[:shed] == {:fraction, 0.5, :largest}
    assert Tree.options(Process.whereis(__MODULE__.A))[:shed] == {:fraction, 0.5, :largest}
    assert Tree.options(Process.whereis(__MODULE__.B))[:shed] == {:fraction, 0.1, :newest}
    assert Tree.options(Process.whereis(__MODULE__.C))[:shed] == nil
  end
end
