defmodule OOM.Test.Parity do
  @moduledoc false
  # Runs one scenario under `Supervisor` and under `OOM.Supervisor` and compares the results. Pids
  # are numbered in order of appearance; references and functions are alike; stacktraces are
  # alike. The scenario runs in a separate process trapping exits.

  import ExUnit.Assertions

  alias OOM.Test.Trees

  @doc "Asserts that both results are equal, and returns the result."
  @spec same((module() -> term())) :: term()
  def same(scenario) do
    expected = run(Supervisor, scenario)
    got = run(OOM.Supervisor, scenario)
    assert got == expected
    got
  end

  defp run(facade, scenario) do
    task =
      Task.async(fn ->
        Process.flag(:trap_exit, true)
        result = scenario.(facade)
        end_linked(hd(Process.get(:"$callers")))
        result
      end)

    {plain, _pids} = task |> Task.await(30_000) |> plain(%{})
    plain
  end

  # The next scenario may take the same name.
  defp end_linked(caller) do
    {:links, links} = Process.info(self(), :links)

    for pid when is_pid(pid) and pid != caller <- links do
      ref = Process.monitor(pid)
      Process.exit(pid, :shutdown)
      receive(do: ({:DOWN, ^ref, :process, _, _} -> :ok))
    end
  end

  defp plain(pid, pids) when is_pid(pid) do
    pids = Map.put_new(pids, pid, {:pid, map_size(pids) + 1})
    {pids[pid], pids}
  end

  defp plain(ref, pids) when is_reference(ref), do: {:reference, pids}
  defp plain(fun, pids) when is_function(fun), do: {:function, pids}

  defp plain([{module, function, arity, location} | _], pids)
       when is_atom(module) and is_atom(function) and is_list(location) and
              (is_integer(arity) or is_list(arity)),
       do: {:stacktrace, pids}

  defp plain([head | tail], pids) do
    {head, pids} = plain(head, pids)
    {tail, pids} = plain(tail, pids)
    {[head | tail], pids}
  end

  defp plain(%module{} = struct, pids) do
    {map, pids} = struct |> Map.from_struct() |> plain(pids)
    {{module, map}, pids}
  end

  defp plain(map, pids) when is_map(map) do
    {pairs, pids} = map |> Enum.sort() |> plain(pids)
    {Map.new(pairs), pids}
  end

  defp plain(tuple, pids) when is_tuple(tuple) do
    {list, pids} = tuple |> Tuple.to_list() |> plain(pids)
    {List.to_tuple(list), pids}
  end

  # The two module-based trees, and the two facades, stand for one another.
  defp plain(Trees.OfSupervisor, pids), do: {:tree, pids}
  defp plain(Trees.OfOOM, pids), do: {:tree, pids}
  defp plain(Supervisor, pids), do: {:facade, pids}
  defp plain(OOM.Supervisor, pids), do: {:facade, pids}
  defp plain(other, pids), do: {other, pids}
end
