# Parent.Supervisor, which restarts a permanent leaker into the pressure, beside 20 others.
[rate] = Enum.map(System.argv(), &String.to_integer/1)
Lab.start()
{:ok, _} = Application.ensure_all_started(:parent)

spec = fn id, arg -> %{id: id, start: {Lab.Worker, :start_link, [arg]}, restart: :permanent} end
others = for i <- 1..20, do: spec.({:other, i}, nil)

start =
  {Parent.Supervisor, :start_link, [others ++ [spec.(:leaker, {:leak, rate})], [name: :parent]]}

Lab.tree([OOM.child_spec(%{id: :parent, start: start, type: :supervisor}, priority: :low)])
Process.sleep(15_000)

running =
  case Process.whereis(:parent) do
    nil ->
      0

    pid ->
      for(%{id: {:other, _}, pid: pid} when is_pid(pid) <- Parent.Client.children(pid), do: pid)
      |> Lab.alive()
  end

Lab.verdict([others: running], running == 20)
