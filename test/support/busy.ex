defmodule OOM.Test.Busy do
  @moduledoc false
  # A healthy node in use: workers build a list now and then and drop it, and hold nothing. Memory comes and goes by
  # some ten MB, up to the same height again and again.

  @mib 1_048_576

  defmodule Worker do
    @moduledoc false
    use GenServer

    @spec start_link({pos_integer(), pos_integer()}) :: GenServer.on_start()
    def start_link(work), do: GenServer.start_link(__MODULE__, work)

    @impl true
    def init({_kib, period_ms} = work) do
      Process.send_after(self(), :build, :rand.uniform(period_ms))
      {:ok, work}
    end

    @impl true
    def handle_info(:build, {kib, period_ms} = work) do
      # Two words an element.
      _ = length(for n <- 1..(kib * 64), do: n)
      Process.send_after(self(), :build, div(period_ms, 2) + :rand.uniform(period_ms))
      {:noreply, work}
    end
  end

  @doc """
  Starts `count` workers below `supervisor` that build `kib` KiB each `period_ms` in the mean, and then holds binaries
  of `held_mib`, loaded at once. Returns the workers.
  """
  @spec start(module(), pos_integer(), pos_integer(), pos_integer(), pos_integer()) :: [pid()]
  def start(supervisor, count, kib, period_ms, held_mib) do
    test = self()

    # The supervisor must not end with the caller, which is a process of one call.
    spawn(fn ->
      children =
        for id <- 1..count, do: %{id: id, start: {Worker, :start_link, [{kib, period_ms}]}}

      {:ok, top} = supervisor.start_link(children, strategy: :one_for_one)
      piece = :binary.copy(<<1>>, @mib)
      held = for _ <- 1..held_mib, do: :binary.copy(piece)
      send(test, {:workers, for({_, pid, _, _} <- Supervisor.which_children(top), do: pid)})
      Process.sleep(:infinity)
      held
    end)

    receive do: ({:workers, workers} -> workers)
  end

  @doc """
  Waits, and looks each 20 ms: returns how many of the workers live at the end, and the part of the looks at which
  work of priority `:low` was refused. Without `guarded?` nothing is refused.
  """
  @spec watch([pid()], pos_integer(), boolean()) :: {non_neg_integer(), float()}
  def watch(workers, seconds, guarded?) do
    looks = seconds * 50

    refused =
      Enum.count(1..looks, fn _ ->
        Process.sleep(20)
        guarded? and not OOM.admit?(:low)
      end)

    {Enum.count(workers, &Process.alive?/1), refused / looks}
  end
end
