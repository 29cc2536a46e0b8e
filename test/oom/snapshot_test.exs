defmodule OOM.SnapshotTest do
  use ExUnit.Case, async: true

  alias OOM.Snapshot

  test "knows nothing to begin with: nil, not 0" do
    assert {%{level: :normal, source: :none}, unknown} =
             %Snapshot{} |> Map.from_struct() |> Map.split([:level, :source])

    assert Enum.all?(unknown, fn {_, value} -> value == nil end)
  end

  test "takes a report as it is" do
    report =
      report(level: :high, source: :cgroup_v2, limit_bytes: 0, file: "/x", growth_bytes_per_s: -5)

    snapshot = Snapshot.from_report(report)

    assert %Snapshot{level: :high, source: :cgroup_v2, limit_bytes: 0, file: "/x"} = snapshot
    assert snapshot.growth_bytes_per_s == -5
    assert snapshot.usage_bytes == nil
  end

  test "says :none where nothing binds" do
    assert %Snapshot{source: :none, limit_bytes: nil} = Snapshot.from_report(report([]))
  end

  test "an unknown field is an error and not dropped" do
    assert_raise KeyError, fn -> Snapshot.from_report(Map.put(report([]), :limit, 1)) end
  end

  test "is without the fields the guard adds to a report for its decision" do
    for standing <- [nil, 0, 5] do
      report = Map.put(report(level: :critical), :standing_bytes_per_s, standing)
      assert %Snapshot{level: :critical} = Snapshot.from_report(report)
    end
  end

  test "documents every field" do
    {:docs_v1, _, _, _, %{"en" => docs}, _, _} = Code.fetch_docs(Snapshot)

    for {field, _} <- Map.from_struct(%Snapshot{}) do
      assert docs =~ "`:#{field}`", "#{field} is not documented"
    end
  end

  defp report(fields) do
    %Snapshot{} |> Map.from_struct() |> Map.put(:source, nil) |> Map.merge(Map.new(fields))
  end
end
