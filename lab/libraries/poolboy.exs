# poolboy with its own child_spec: one of five workers leaks. The pool replaces this worker alone.
[rate] = Enum.map(System.argv(), &String.to_integer/1)
Lab.start()

pool =
  :poolboy.child_spec(
    :pool,
    [name: {:local, :pool}, worker_module: Lab.Worker, size: 5, max_overflow: 0],
    []
  )

Lab.tree([OOM.child_spec(%{id: :pool, start: elem(pool, 1), type: :worker}, priority: :low)])
pool = Process.whereis(:pool)
workers = for _ <- 1..5, do: :poolboy.checkout(:pool)
for pid <- workers, do: :poolboy.checkin(:pool, pid)
GenServer.cast(hd(workers), {:leak, rate})
Process.sleep(10_000)

others = Lab.alive(tl(workers))

served =
  for _ <- 1..5,
      pid = :poolboy.checkout(:pool, false, 1_000),
      is_pid(pid),
      do: GenServer.call(pid, :ping)

same = Process.whereis(:pool) == pool

Lab.verdict(
  [others: others, served: length(served), same_pool: same, leaks: Process.alive?(hd(workers))],
  others == 4 and length(served) == 5 and same
)
