defmodule OOM.StandingTest do
  use ExUnit.Case, async: true

  alias OOM.Standing

  @mib 1_048_576

  # Repeats stands of 15 ms with memory growing at the given rate, until there is a verdict.
  defp judged(standing, bytes_per_s, stands \\ 1_000)
  defp judged(standing, _bytes_per_s, 0), do: {:wait, standing}

  defp judged(standing, bytes_per_s, stands) do
    case standing |> Standing.add(div(bytes_per_s * 15, 1_000), 15) |> Standing.judge() do
      {:wait, standing} -> judged(standing, bytes_per_s, stands - 1)
      verdict -> verdict
    end
  end

  test "growth too slow to show in one stand shows in several, and takes all that stand to tell whose" do
    for mib_per_s <- [4, 5, 20, 50, 2_000] do
      assert {:all, %Standing{all?: true} = all} = judged(%Standing{}, mib_per_s * @mib)
      assert {:foreign, _} = judged(all, mib_per_s * @mib)
    end
  end

  test "one stand shows nothing, however large its growth: memory may be charged late" do
    assert {:wait, _} = judged(%Standing{}, 20_000 * @mib, 2)
    assert {:wait, _} = judged(Standing.all(), 20_000 * @mib, 2)
  end

  test "where nothing grows in a stand, the growth is of the running workers" do
    for standing <- [%Standing{}, Standing.all()], bytes_per_s <- [-50 * @mib, 0, @mib] do
      assert {:own, %Standing{all?: false}} = judged(standing, bytes_per_s)
    end
  end

  test "memory charged at once and no more is no growth" do
    once = Standing.add(%Standing{}, 100 * @mib, 15)
    assert {:own, _} = judged(once, 0)
    assert {:own, _} = judged(Standing.add(Standing.all(), 100 * @mib, 15), 0)
  end

  test "known growth of the suspended workers explains the growth it is a part of" do
    # 100 MiB a second.
    standing = Standing.add(%Standing{}, 5 * @mib, 50)
    assert Standing.explained?(standing, 8 * @mib)
    refute Standing.explained?(standing, 7 * @mib)
    refute Standing.explained?(%Standing{}, 60_000)
    refute Standing.explained?(%Standing{}, 0)
  end

  test "it is quiet until growth shows, and not before it is known whose it is" do
    assert Standing.quiet?(%Standing{})
    assert Standing.quiet?(Standing.add(%Standing{}, 500_000, 15))

    refute Standing.quiet?(
             Enum.reduce(1..3, %Standing{}, fn _, s -> Standing.add(s, @mib, 15) end)
           )

    refute Standing.quiet?(Standing.all())
    {:own, standing} = judged(Standing.all(), 0)
    assert Standing.quiet?(standing)
  end

  test "memory given back in the same time is taken off" do
    standing = %Standing{} |> Standing.add(10 * @mib, 30) |> Standing.add(10 * @mib, 30)
    standing = Standing.add(standing, -10 * @mib, 30)
    assert {:wait, ^standing} = Standing.judge(standing)
  end
end
