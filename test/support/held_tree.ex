defmodule OOM.Test.HeldTree do
  @moduledoc false
  # An OOM.Supervisor whose workers are killed as the guard kills, and its holds.

  import OOM.Test.Eventually

  alias OOM.Test.Worker

  # Longer than any test, for every jitter, and shorter than anyone notices.
  @backoffs %{
    long: [initial_ms: 1_000_000_000_000, max_ms: 1_000_000_000_000],
    short: [initial_ms: 10, max_ms: 50]
  }

  @doc "Starts `ids`, or children; returns the supervisor and the pids by id."
  @spec start(:long | :short, [atom() | map()], keyword()) :: {pid(), %{term() => pid()}}
  def start(backoff, children, options \\ []) do
    children = for child <- children, do: if(is_atom(child), do: worker(child), else: child)

    options =
      [strategy: :one_for_one, max_restarts: 0, oom: [backoff: @backoffs[backoff]]]
      |> Keyword.merge(options)

    pid =
      ExUnit.Callbacks.start_supervised!(%{
        id: make_ref(),
        restart: :temporary,
        type: :supervisor,
        start: {OOM.Supervisor, :start_link, [children, options]}
      })

    {pid, for(%{id: id} <- children, into: %{}, do: {id, started(id)})}
  end

  @spec worker(term(), keyword()) :: map()
  def worker(id, options \\ []), do: Worker.child_spec([id: id, owner: self()] ++ options)

  @doc """
  Returns a `start` for a worker, and the counter of its starts. At the start of this number,
  tells the caller `{:starting, supervisor}`, and goes on when the supervisor is sent `:go`.
  """
  @spec waits_at_start(pos_integer()) :: {(() -> :ok), :counters.counters_ref()}
  def waits_at_start(number) do
    test = self()
    starts = :counters.new(1, [])

    start = fn ->
      :counters.add(starts, 1, 1)

      if :counters.get(starts, 1) == number do
        send(test, {:starting, self()})
        receive(do: (:go -> :ok))
      end

      :ok
    end

    {start, starts}
  end

  @doc "Waits for the next start of this child; returns its pid."
  @spec started(term()) :: pid()
  def started(id) do
    receive do
      {:started, ^id, pid} -> pid
    after
      10_000 -> ExUnit.Assertions.flunk("#{inspect(id)} was not started")
    end
  end

  @doc "Ends a worker as the guard does; returns when it is gone."
  @spec kill(pid()) :: :ok
  def kill(worker) do
    ref = Process.monitor(worker)
    Process.exit(worker, {:shutdown, :memory_pressure})

    receive do
      {:DOWN, ^ref, _, _, {:shutdown, :memory_pressure}} -> :ok
    end
  end

  @doc "Kills a worker and waits until its supervisor holds it; for long backoffs."
  @spec hold(pid(), term(), pid()) :: OOM.Hold.t()
  def hold(supervisor, id, worker) do
    kill(worker)
    eventually(fn -> held(supervisor, id) end)
  end

  @doc "Returns how often the child was killed or failed to start, since it was last stable."
  @spec kills(pid(), term()) :: non_neg_integer()
  def kills(supervisor, id) do
    case :ets.lookup(OOM.Holds, {supervisor, id}) do
      [{_, hold}] -> hold.kills + hold.failures
      [] -> 0
    end
  end

  @spec held(pid(), term()) :: OOM.Hold.t() | nil
  def held(supervisor, id) do
    case :ets.lookup(OOM.Holds, {supervisor, id}) do
      [{_, %{state: :running}}] -> nil
      [{_, hold}] -> hold
      [] -> nil
    end
  end

  @doc "Returns the ids of running children, in start order."
  @spec running(pid()) :: [term()]
  def running(supervisor) do
    for {id, pid, _, _} <- Enum.reverse(Supervisor.which_children(supervisor)),
        is_pid(pid),
        do: id
  end
end
