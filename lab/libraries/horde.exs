# Horde.DynamicSupervisor with a permanent leaker, beside 20 others.
[rate] = Enum.map(System.argv(), &String.to_integer/1)
Lab.start()
{:ok, _} = Application.ensure_all_started(:horde)

horde =
  {Horde.DynamicSupervisor,
   name: Lab.Horde, strategy: :one_for_one, members: [{Lab.Horde, node()}]}

Lab.tree([OOM.child_spec(horde, priority: :low)])
spec = fn id, arg -> %{id: id, start: {Lab.Worker, :start_link, [arg]}, restart: :permanent} end

others =
  for i <- 1..20, do: elem(Horde.DynamicSupervisor.start_child(Lab.Horde, spec.(i, nil)), 1)

{:ok, _} = Horde.DynamicSupervisor.start_child(Lab.Horde, spec.(:leaker, {:leak, rate}))
Process.sleep(15_000)

alive = Lab.alive(others)
Lab.verdict([others: alive], alive == 20)
