defmodule Rivals.HeapCap do
  @moduledoc false
  # The VM's bound for a heap (`+hmax` and `+hmaxk true`), for every process started from here on:
  # the same share of the limit OOM gives its workers, too.
  @behaviour Arena.Guard

  alias Rivals.Plain

  @impl true
  def start(percent, job) do
    words = div(job.limit_bytes * percent, 100 * :erlang.system_info(:wordsize))
    :erlang.system_flag(:max_heap_size, %{size: words, kill: true, error_logger: true})
  end

  @impl true
  defdelegate supervisor(children, oom), to: Plain
end
