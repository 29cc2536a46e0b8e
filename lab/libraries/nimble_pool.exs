# NimblePool with five worker processes, linked to the pool: one leaks. The pool replaces this worker alone.
defmodule Pool do
  @behaviour NimblePool
  def child_spec(_),
    do: %{
      id: Pool,
      start: {NimblePool, :start_link, [[worker: {Pool, nil}, pool_size: 5, name: Pool]]}
    }

  def init_worker(state), do: Lab.Worker.start_link(nil) |> Tuple.append(state)
  def handle_checkout(:checkout, _from, pid, state), do: {:ok, pid, pid, state}
  def handle_checkin(:ok, _from, pid, state), do: {:ok, pid, state}
  def handle_info({:EXIT, pid, reason}, pid), do: {:remove, reason}
  def handle_info(_other, pid), do: {:ok, pid}
  def terminate_worker(_reason, _pid, state), do: {:ok, state}

  def worker,
    do:
      NimblePool.checkout!(
        Pool,
        :checkout,
        fn _, pid -> {{pid, GenServer.call(pid, :ping)}, :ok} end,
        1_000
      )
end

[rate] = Enum.map(System.argv(), &String.to_integer/1)
Lab.start()
Lab.tree([OOM.child_spec(Pool, priority: :low)])
pool = Process.whereis(Pool)
workers = Enum.uniq(for _ <- 1..5, {pid, :pong} = Pool.worker(), do: pid)
GenServer.cast(hd(workers), {:leak, rate})
Process.sleep(10_000)

others = Lab.alive(tl(workers))
served = Enum.uniq(for _ <- 1..5, {pid, :pong} = Pool.worker(), do: pid)
same = Process.whereis(Pool) == pool

Lab.verdict(
  [others: others, served: length(served), same_pool: same, leaks: Process.alive?(hd(workers))],
  others == 4 and length(served) == 5 and same
)
