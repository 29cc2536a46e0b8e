defmodule OOM.Throttle.Look do
  @moduledoc false
  # Reads the memory of workers: first their tables, ports and children, then each process. Throw-away
  # processes read, because a worker in a long collection does not answer before the end of the collection.

  alias OOM.{Beginners, Owned, Probe}

  # To read the parents of so many processes takes 30 ms. Above this number the accountant's figures have to
  # do.
  @many_processes 30_000
  # Probes at a time. A probe may be held up by a worker in a long collection; the others go on.
  @probes 4

  @doc "Starts a look; the caller is sent `{:looked, ref}` at the end."
  @spec start([pid()]) :: reference()
  def start(pids) do
    {throttle, ref} = {self(), make_ref()}

    _pid =
      :erlang.spawn_opt(
        fn ->
          read(pids)
          send(throttle, {:looked, ref})
        end,
        priority: :max
      )

    ref
  end

  defp read(pids) do
    many? = :erlang.system_info(:process_count) > @many_processes
    kinds = if many?, do: [:tables, :ports], else: [:tables, :ports, :children]
    for kind <- kinds, do: Owned.read(kind)
    Beginners.read()
    chunk = Probe.chunk(pids)
    probes = for _ <- 1..@probes, do: elem(Probe.start(chunk, :max), 1)
    Enum.each(probes, fn probe -> receive(do: ({:DOWN, ^probe, _, _, _} -> :ok)) end)
  end
end
