defmodule Rivals.Guards do
  @moduledoc false
  # The rivals, in the order of the table.

  # name: {title, an Arena.Guard and its argument}
  @guards [
    none: {"no guard", {Rivals.Plain, nil}},
    memsup: {"memsup, each minute", {Rivals.Memsup, :each_minute}},
    memsup_1s: {"memsup, forced to each second", {Rivals.Memsup, :each_second}},
    poll_1s: {"GenServer, each 1 s", {Rivals.Poll, {1_000, :allocated}}},
    poll_100ms: {"GenServer, each 100 ms", {Rivals.Poll, {100, :allocated}}},
    poll_10ms: {"GenServer, each 10 ms", {Rivals.Poll, {10, :allocated}}},
    rss_10ms: {"GenServer, each 10 ms, by RSS", {Rivals.Poll, {10, :resident}}},
    heap: {"max_heap_size, 35 % of the limit", {Rivals.HeapCap, 35}},
    # As shipped.
    oom: {"OOM", {Arena.WithOOM, []}}
  ]

  # Only on request: each second uses the message memsup sends to itself.
  @on_request [:memsup_1s]

  @notes """
  The rivals' workers are under a plain `Supervisor` with no bound for restarts. memsup's alarm \
  handler and the GenServers kill the largest worker that is not protected, by what `process_info` \
  calls its `memory`. memsup has its \
  default watermarks, 80 % and 5 %, but of the limit: it reads the host's memory, and would never \
  raise an alarm for a cgroup (where VMs run at once, it counts the others, too). Once a minute is \
  as often as it can be told to look. The GenServers \
  compare `:erlang.memory(:total)`, or resident memory, with 80 % of the limit, at high priority, \
  and kill one worker at a time. `max_heap_size` is set for every process, with `kill: true`.\
  """

  @doc "Describes the rivals, for readers of the table."
  @spec notes() :: String.t()
  def notes, do: @notes

  @spec names() :: [atom()]
  def names, do: Keyword.keys(@guards)

  @spec default() :: [atom()]
  def default, do: names() -- @on_request

  @spec title(atom()) :: String.t()
  def title(name), do: @guards |> Keyword.fetch!(name) |> elem(0)

  @spec guard(atom()) :: {module(), term()}
  def guard(name), do: @guards |> Keyword.fetch!(name) |> elem(1)
end
