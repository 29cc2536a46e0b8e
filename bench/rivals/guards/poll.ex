defmodule Rivals.Poll do
  @moduledoc false
  # The GenServer users write: looks at the VM's memory at an interval and, above 80 % of the
  # limit, kills the largest worker. Runs at high priority, which not every user thinks of. Looks
  # at the memory the VM says is allocated, or the memory the kernel says is resident.
  @behaviour Arena.Guard

  use GenServer

  alias Rivals.{Largest, Plain}

  @share 0.8

  @impl Arena.Guard
  def start({every_ms, what}, job) do
    most = trunc(job.limit_bytes * @share)
    options = [name: __MODULE__, spawn_opt: [priority: :high]]
    {:ok, _} = GenServer.start_link(__MODULE__, {every_ms, what, most}, options)
  end

  @impl Arena.Guard
  defdelegate supervisor(children, oom), to: Plain

  @impl GenServer
  def init({every_ms, what, most}) do
    # There is nobody to kill yet; the call loads the modules, as in a release.
    nil = Largest.kill()
    Process.send_after(self(), :look, every_ms)
    {:ok, {every_ms, what, most}}
  end

  @impl GenServer
  def handle_info(:look, {every_ms, what, most}) do
    if used(what) > most, do: Largest.kill()
    Process.send_after(self(), :look, every_ms)
    {:noreply, {every_ms, what, most}}
  end

  @page_bytes 4_096

  defp used(:allocated), do: :erlang.memory(:total)

  defp used(:resident) do
    [_size, resident | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(resident) * @page_bytes
  end
end
