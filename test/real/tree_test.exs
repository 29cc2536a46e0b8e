defmodule OOM.Real.TreeTest do
  @moduledoc false
  # A leak below each kind of supervisor unaware of OOM, in a real cgroup: the leak alone dies,
  # nothing is restarted into the pressure, nothing is counted, and the leak is back where it may
  # be.

  use ExUnit.Case, async: false

  alias OOM.Test.{Cgroup, LimitedVM, TreeWorkload}

  @moduletag :cgroup
  @moduletag skip: Cgroup.unavailable()
  @moduletag timeout: 120_000

  @limit 256 * 1_048_576
  @config [backoff: [initial_ms: 300, max_ms: 600]]

  defp run(kind, returns?, busy? \\ false) do
    vm = LimitedVM.start!(@limit, @config)
    result = LimitedVM.call(vm, TreeWorkload, :run, [kind, returns?, busy?])
    assert Cgroup.oom_kills(vm.cgroup) == 0

    assert %{reason: {:shutdown, :memory_pressure}, back?: ^returns?, top?: true} = result
    # Once at most, as soon as there is room: the level need not be normal by then.
    assert result.starts <= if(returns?, do: 1, else: 0)
    result
  end

  for kind <- [:one_for_one, :rest_for_one, :dynamic, :transient, :simple, :partition] do
    test "#{kind}: held, and back" do
      assert %{other?: true, same?: true} = run(unquote(kind), true)
    end
  end

  test "one_for_all: the whole unit, held, and back" do
    assert %{other?: false, same?: true} = run(:one_for_all, true)
  end

  for kind <- [:temporary, :task, :conns] do
    test "#{kind}: killed and forgotten" do
      assert %{other?: true, same?: false} = run(unquote(kind), false)
    end
  end

  test "spawned: killed, without the knowledge of its supervisor" do
    assert %{other?: true, same?: true} = run(:spawned, false)
  end

  for kind <- [:one_for_one, :dynamic] do
    test "#{kind}, busy: the kill does not wait, and what follows is right" do
      assert %{other?: true, same?: true} = run(unquote(kind), true, true)
    end
  end
end
