defmodule OOM.Supervisor.PropertyTest do
  # Trees, priorities, pressure and crashes from seeds. No memory is used: the figures are put where the
  # probes would put them, and the guard is told of invented samples. A model says what may happen
  # (OOM.Test.GeneratedTree.Model).
  #
  #   OOM_PROPERTY_RUNS=2000 mix test test/oom/supervisor/property_test.exs
  #   OOM_PROPERTY_SEED=17 OOM_PROPERTY_RUNS=1 mix test ...     what failed with seed 17
  use ExUnit.Case, async: false

  import OOM.Test.Eventually

  alias OOM.Test.GeneratedTree
  alias OOM.Test.GeneratedTree.Scenario
  alias OOM.Test.Pressure

  @runs String.to_integer(System.get_env("OOM_PROPERTY_RUNS", "15"))
  @seed String.to_integer(System.get_env("OOM_PROPERTY_SEED", "1"))
  @moduletag timeout: :infinity

  setup do
    eventually(fn -> OOM.snapshot().headroom_bytes end)
    Process.flag(:trap_exit, true)
    on_exit(&Pressure.relief/0)
  end

  test "without crashes: no restart is counted anywhere" do
    many(0)
  end

  test "with crashes in between: no more restarts are counted than there were" do
    many(4)
  end

  defp many(crashes) do
    kills = Enum.sort(for seed <- @seed..(@seed + @runs - 1), do: run(seed, crashes))
    median = Enum.at(kills, div(@runs, 2))

    if @runs > 100 do
      [p10, p90] = for n <- [1, 9], do: Enum.at(kills, div(@runs * n, 10))

      IO.puts(
        "#{@runs} trees, #{crashes} crashes each: #{Enum.sum(kills)} kills, in one tree " <>
          "#{hd(kills)}, #{p10}, #{median}, #{p90}, #{List.last(kills)} (10 %, median, 90 %)"
      )
    end

    # A run without kills shows nothing.
    assert median >= 10 or @runs < 10
  end

  defp run(seed, crashes) do
    :rand.seed(:exsss, seed)
    tree = GeneratedTree.generate()

    try do
      Scenario.run(tree, crashes)
    rescue
      error ->
        message = """
        OOM_PROPERTY_SEED=#{seed} OOM_PROPERTY_RUNS=1, #{crashes} crashes
        #{Exception.message(error)}
        history:
        #{Scenario.history()}
        tree:
        #{GeneratedTree.show(tree)}
        """

        reraise ExUnit.AssertionError, [message: message], __STACKTRACE__
    end
  end
end
